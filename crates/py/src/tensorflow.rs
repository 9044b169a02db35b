//! `TensorFlow`: the runtime of the installed wheel.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;
use servable_codec::metadata;
use servable_model::error::Result;
use servable_model::signature::DEFAULT_SIGNATURE;
use servable_server::serving::servable::Servable;
use servable_tensorflow::{LoadOptions, Runtime};

use crate::errors;
use crate::options::SavedModelOptions;
use crate::servable::PyServable;

/// The opened libraries.
#[pyclass(name = "TensorFlow", module = "servable._core", frozen)]
pub(crate) struct PyTensorFlow {
    runtime: Arc<Runtime>,
}

#[pymethods]
impl PyTensorFlow {
    #[new]
    fn new(py: Python<'_>, library_directory: PathBuf) -> PyResult<Self> {
        let runtime = py
            .detach(|| Runtime::open(&library_directory))
            .map_err(|error| errors::named(py, "LoadError", &error.to_string()))?;
        Ok(Self { runtime })
    }

    #[getter]
    fn version(&self) -> String {
        self.runtime.version()
    }

    /// Name, type and memory limit of each device.
    fn devices(&self) -> Vec<(&str, &str, Option<u64>)> {
        let devices = self.runtime.devices().iter();
        devices.map(|device| (device.name.as_str(), device.kind.as_str(), device.memory_limit_bytes)).collect()
    }

    fn start_threads(&self, py: Python<'_>, options: SavedModelOptions) -> PyResult<()> {
        let LoadOptions { session_config, run_in_caller_thread, .. } = options.into();
        py.detach(|| self.runtime.start_threads(&session_config, run_in_caller_thread))
            .map_err(|error| errors::to_python(py, &error))
    }

    fn load_library(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        bind_openssl(py)?;
        py.detach(|| self.runtime.load_library(&path)).map_err(|error| errors::to_python(py, &error))
    }

    #[pyo3(signature = (path, options, *, in_background=false))]
    fn load_saved_model(
        &self,
        py: Python<'_>,
        path: PathBuf,
        options: SavedModelOptions,
        in_background: bool,
    ) -> PyResult<PyServable> {
        let options = options.into();
        PyServable::load(py, in_background, || self.load(&path, &options))
    }
}

/// Imports the extensions of Python that use OpenSSL, if they exist.
///
/// After a library of operations, they would be bound to the `BoringSSL` of TensorFlow, and crash.
fn bind_openssl(py: Python<'_>) -> PyResult<()> {
    for module in ["_hashlib", "_ssl"] {
        match py.import(module) {
            Err(error) if !error.is_instance_of::<PyImportError>(py) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

impl PyTensorFlow {
    fn load(&self, path: &std::path::Path, options: &LoadOptions) -> Result<Arc<Servable>> {
        let mut loaded = self.runtime.load_saved_model(path, options)?;
        let signatures = metadata::signatures_from_meta_graph(&loaded.meta_graph)?;
        if metadata::is_repeatable(&loaded.meta_graph) {
            loaded.session.declare_repeatable();
        }
        // Only the signature of most requests. Each plan has a copy of constants, so plans for all signatures could
        // take several times the memory.
        if let Some(signature) = signatures.by_name.get(DEFAULT_SIGNATURE) {
            loaded.session.prepare(signature);
        }
        Ok(Servable::new(signatures.by_name, signatures.signature_defs, Box::new(loaded.session)))
    }
}
