//! `OnnxRuntime`: the runtime of the installed wheel.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyo3::prelude::*;
use servable_codec::metadata;
use servable_model::error::Result;
use servable_model::signature::DEFAULT_SIGNATURE;
use servable_onnx::{LoadOptions, Runtime};
use servable_server::serving::servable::Servable;

use crate::errors;
use crate::options::OnnxOptions;
use crate::servable::PyServable;

/// The opened library.
#[pyclass(name = "OnnxRuntime", module = "servable._core", frozen)]
pub(crate) struct PyOnnxRuntime {
    runtime: Arc<Runtime>,
}

#[pymethods]
impl PyOnnxRuntime {
    #[new]
    fn new(py: Python<'_>, library: PathBuf) -> PyResult<Self> {
        let runtime = py
            .detach(|| Runtime::open(&library))
            .map_err(|error| errors::named(py, "LoadError", &error.to_string()))?;
        Ok(Self { runtime })
    }

    #[getter]
    fn version(&self) -> &str {
        self.runtime.version()
    }

    #[pyo3(signature = (path, options, max_run_seconds, *, in_background=false))]
    fn load(
        &self,
        py: Python<'_>,
        path: PathBuf,
        options: OnnxOptions,
        max_run_seconds: f64,
        in_background: bool,
    ) -> PyResult<PyServable> {
        let options = options.for_runs_of(max_run_seconds)?;
        PyServable::load(py, in_background, || self.load_model(&path, &options))
    }
}

impl PyOnnxRuntime {
    fn load_model(&self, path: &Path, options: &LoadOptions) -> Result<Arc<Servable>> {
        let session = self.runtime.load(path, options)?;
        let signatures = [(DEFAULT_SIGNATURE.to_owned(), session.signature())].into();
        let signature_defs = metadata::signature_defs(&signatures);
        Ok(Servable::new(signatures, signature_defs, Box::new(session)))
    }
}
