//! `XGBoost`: the runtime of the installed wheel.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use servable_xgboost::{LoadOptions, Runtime};

use crate::servable::{PyServable, opened, release_free_memory};
use crate::trees::TreeOptions;

/// The opened library.
#[pyclass(name = "XGBoost", module = "servable._core", frozen)]
pub(crate) struct PyXgBoost {
    runtime: Arc<Runtime>,
}

#[pymethods]
impl PyXgBoost {
    #[new]
    fn new(py: Python<'_>, library: PathBuf) -> PyResult<Self> {
        Ok(Self { runtime: opened(py, || Runtime::open(&library))? })
    }

    #[getter]
    fn version(&self) -> String {
        self.runtime.version()
    }

    #[pyo3(signature = (path, options, *, all_rounds=false, in_background=false))]
    fn load_model(
        &self,
        py: Python<'_>,
        path: PathBuf,
        options: TreeOptions,
        all_rounds: bool,
        in_background: bool,
    ) -> PyResult<PyServable> {
        PyServable::load(py, in_background, || {
            let model = self.runtime.load(&path, LoadOptions { all_rounds, labels: options.labels() });
            // The parsed document, which a load frees, takes ten times the memory of the model.
            release_free_memory();
            let model = model?;
            options.servable(model.booster, model.description)
        })
    }
}
