//! The metrics of the control plane: dataclasses of `servable._server.telemetry.metrics`, which are read at each
//! scrape.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use servable_server::metrics::page::{self, Family, Kind, Value};

/// `Family`.
#[derive(FromPyObject)]
pub(crate) struct PyFamily {
    name: String,
    kind: String,
    help: String,
    labels: Vec<String>,
    points: Vec<(Vec<String>, Measured)>,
}

#[derive(FromPyObject)]
enum Measured {
    Integer(u64),
    Float(f64),
    Distribution(Distribution),
}

/// `Distribution`.
#[derive(FromPyObject)]
struct Distribution {
    limits: Vec<f64>,
    counts: Vec<u64>,
    sum: f64,
}

impl PyFamily {
    pub(crate) fn into_family(self) -> PyResult<Family> {
        let kind = Kind::from_name(&self.kind)
            .ok_or_else(|| PyValueError::new_err(format!("metric {}: {} is not a kind", self.name, self.kind)))?;
        let points = self.points.into_iter().map(|(labels, value)| (labels, value.into_value()));
        Ok(Family {
            name: self.name.into(),
            kind,
            help: self.help.into(),
            labels: self.labels.into_iter().map(Into::into).collect(),
            points: points.collect(),
        })
    }
}

impl Measured {
    fn into_value(self) -> Value {
        match self {
            Self::Integer(count) => Value::Integer(count),
            Self::Float(number) => Value::Float(number),
            Self::Distribution(Distribution { limits, counts, sum }) => {
                Value::Distribution(page::Distribution { limits: limits.into(), counts, sum })
            }
        }
    }
}
