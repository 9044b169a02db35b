//! `OnnxRuntime`: the runtime of the installed wheel.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyo3::prelude::*;
use servable_model::error::Result;
use servable_model::signature::DEFAULT_SIGNATURE;
use servable_onnx::{LoadOptions, Runtime};
use servable_server::serving::servable::Servable;
use servable_tabular::Names;

use crate::options::OnnxOptions;
use crate::servable::{PyServable, opened, release_free_memory, with_heads};

/// The opened library.
#[pyclass(name = "OnnxRuntime", module = "servable._core", frozen)]
pub(crate) struct PyOnnxRuntime {
    runtime: Arc<Runtime>,
}

#[pymethods]
impl PyOnnxRuntime {
    #[new]
    fn new(py: Python<'_>, library: PathBuf) -> PyResult<Self> {
        Ok(Self { runtime: opened(py, || Runtime::open(&library))? })
    }

    #[getter]
    fn version(&self) -> &str {
        self.runtime.version()
    }

    #[pyo3(signature = (path, options, max_run_seconds, *, feature_names, class_labels, in_background=false))]
    #[allow(clippy::too_many_arguments, reason = "most are keywords in Python")]
    fn load(
        &self,
        py: Python<'_>,
        path: PathBuf,
        options: OnnxOptions,
        max_run_seconds: f64,
        feature_names: Vec<String>,
        class_labels: Vec<String>,
        in_background: bool,
    ) -> PyResult<PyServable> {
        let options = options.for_runs_of(max_run_seconds)?;
        let names = Names { features: feature_names, classes: class_labels };
        PyServable::load(py, in_background, || {
            let loaded = self.load_model(&path, &options, names);
            // The parsed file, which the load has freed, takes as much memory as the model.
            release_free_memory();
            loaded
        })
    }
}

impl PyOnnxRuntime {
    fn load_model(&self, path: &Path, options: &LoadOptions, names: Names) -> Result<Arc<Servable>> {
        let session = self.runtime.load(path, options)?;
        let signatures = [(DEFAULT_SIGNATURE.to_owned(), session.signature())].into();
        let heads = session.heads(names);
        with_heads(Box::new(session), signatures, heads)
    }
}
