//! `LiteRT`: the runtime of the installed wheel.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use servable_litert::Runtime;
use servable_server::serving::servable::Servable;

use crate::errors;
use crate::options::LiteRtOptions;
use crate::servable::{PyServable, opened, with_heads};

/// The opened library.
#[pyclass(name = "LiteRt", module = "servable._core", frozen)]
pub(crate) struct PyLiteRt {
    runtime: Arc<Runtime>,
}

#[pymethods]
impl PyLiteRt {
    #[new]
    fn new(py: Python<'_>, library: PathBuf) -> PyResult<Self> {
        Ok(Self { runtime: opened(py, || Runtime::open(&library))? })
    }

    #[pyo3(signature = (path, options, *, in_background=false))]
    fn load_model(
        &self,
        py: Python<'_>,
        path: PathBuf,
        options: LiteRtOptions,
        in_background: bool,
    ) -> PyResult<PyServable> {
        let options = options.into();
        PyServable::load(py, in_background, || {
            let loaded = self.runtime.load(&path, &options)?;
            let model = Box::new(loaded.model);
            match loaded.heads {
                None => Ok(Servable::new(loaded.signatures, loaded.signature_defs, model)),
                heads => with_heads(model, loaded.signatures, heads),
            }
        })
    }

    #[staticmethod]
    fn tensor_bytes(py: Python<'_>, path: PathBuf) -> PyResult<u64> {
        py.detach(|| servable_litert::tensor_bytes(&path)).map_err(|error| errors::to_python(py, &error))
    }
}
