//! The metrics of the control plane: dataclasses of `servable._server.telemetry.metrics`, read when the page is asked for.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use servable_core::error::Result;
use servable_core::metrics::Scrape;
use servable_core::metrics::page::{self, Family, Kind, Value};

use crate::errors;

/// The upward call for what Python has counted.
pub(crate) struct PythonScrape(pub(crate) Py<PyAny>);

impl Scrape for PythonScrape {
    fn scrape(&self) -> Result<Vec<Family>> {
        Python::attach(|py| {
            let families: PyResult<Vec<PyFamily>> = self.0.call0(py).and_then(|families| families.extract(py));
            families
                .and_then(|families| families.into_iter().map(PyFamily::into_family).collect())
                .map_err(|error| errors::from_python(py, &error))
        })
    }
}

/// `Family`.
#[derive(FromPyObject)]
struct PyFamily {
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
    fn into_family(self) -> PyResult<Family> {
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
