//! `load_embeddings`: tables of embeddings.

use std::path::PathBuf;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use servable_embeddings::{CheckFinite, Combiner, Metric, Options, Preload, Unknown, open};

use crate::options::longest;
use crate::servable::{PyServable, release_free_memory, with_heads};

/// `servable.loaders._embeddings.EmbeddingsOptions`.
#[derive(FromPyObject)]
pub(crate) struct EmbeddingsOptions {
    unknown: String,
    unknown_row: usize,
    hash_buckets: usize,
    combiner: String,
    metric: String,
    neighbours: usize,
    tensor: String,
    scales: String,
    check_finite: String,
    preload: String,
}

impl EmbeddingsOptions {
    fn options(self, max_run_seconds: f64) -> PyResult<Options> {
        let odd = |name: &str, found: &str| PyValueError::new_err(format!("got {name}={found:?}"));
        Ok(Options {
            unknown: match self.unknown.as_str() {
                "error" => Unknown::Error,
                "zeros" => Unknown::Zeros,
                "row" => Unknown::Row(self.unknown_row),
                "hash" => Unknown::Hash(self.hash_buckets.max(1)),
                found => return Err(odd("unknown", found)),
            },
            combiner: match self.combiner.as_str() {
                "sum" => Combiner::Sum,
                "mean" => Combiner::Mean,
                "sqrtn" => Combiner::SqrtN,
                found => return Err(odd("combiner", found)),
            },
            metric: match self.metric.as_str() {
                "cosine" => Metric::Cosine,
                "dot" => Metric::Dot,
                "l2" => Metric::L2,
                found => return Err(odd("metric", found)),
            },
            neighbours: self.neighbours.max(1),
            tensor: self.tensor,
            scales: self.scales,
            check_finite: match self.check_finite.as_str() {
                "when_read" => CheckFinite::WhenRead,
                "always" => CheckFinite::Always,
                "never" => CheckFinite::Never,
                found => return Err(odd("check_finite", found)),
            },
            preload: match self.preload.as_str() {
                "none" => Preload::None,
                "read_ahead" => Preload::ReadAhead,
                "lock" => Preload::Lock,
                found => return Err(odd("preload", found)),
            },
            longest_run: longest(max_run_seconds),
        })
    }
}

#[pyfunction]
#[pyo3(signature = (path, keys, options, *, max_run_seconds=0.0, in_background=false))]
pub(crate) fn load_embeddings(
    py: Python<'_>,
    path: PathBuf,
    keys: Option<PathBuf>,
    options: EmbeddingsOptions,
    max_run_seconds: f64,
    in_background: bool,
) -> PyResult<PyServable> {
    let options = options.options(max_run_seconds)?;
    PyServable::load(py, in_background, || {
        let loaded = open(&path, keys.as_deref(), &options);
        // Lines of texts are read into memory that is free again.
        release_free_memory();
        let loaded = loaded?;
        with_heads(Box::new(loaded.executor), loaded.signatures, None)
    })
}
