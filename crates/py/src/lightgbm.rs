//! `LightGBM`: the runtime of the installed wheel.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use servable_lightgbm::{LoadOptions, Runtime};

use crate::servable::{PyServable, opened};
use crate::trees::TreeOptions;

/// The opened library.
#[pyclass(name = "LightGBM", module = "servable._core", frozen)]
pub(crate) struct PyLightGbm {
    runtime: Arc<Runtime>,
}

#[pymethods]
impl PyLightGbm {
    #[new]
    fn new(py: Python<'_>, library: PathBuf) -> PyResult<Self> {
        Ok(Self { runtime: opened(py, || Runtime::open(&library))? })
    }

    #[pyo3(signature = (path, options, *, copies=1, in_background=false))]
    fn load_model(
        &self,
        py: Python<'_>,
        path: PathBuf,
        options: TreeOptions,
        copies: usize,
        in_background: bool,
    ) -> PyResult<PyServable> {
        PyServable::load(py, in_background, || {
            let model = self.runtime.load(&path, LoadOptions { copies, labels: options.labels() })?;
            options.servable(model.boosters, model.description)
        })
    }
}
