//! The calls from the request path up to Python: methods of `servable._server.border.control_plane.ControlPlane`.

use bytes::Bytes;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCFunction, PyDict, PyTuple};
use servable_model::call::WaitingCall;
use servable_model::error::{Code, Result};
use servable_server::control_plane::{AdminAnswer, AdminRequest, ControlPlane};
use servable_server::metrics::page::Family;

use crate::errors;
use crate::metrics::PyFamily;

/// The object that implements the protocol.
pub(crate) struct PythonControlPlane(pub(crate) Py<PyAny>);

impl PythonControlPlane {
    /// Makes a call with the interpreter held. An exception becomes the error.
    fn call<T>(&self, make: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>) -> Result<T> {
        Python::attach(|py| make(self.0.bind(py)).map_err(|error| errors::from_python(py, &error)))
    }
}

impl ControlPlane for PythonControlPlane {
    fn reload_config(&self, config: Bytes, caller: &WaitingCall) -> Result<()> {
        self.call(|plane| {
            let py = plane.py();
            let arguments = (PyBytes::new(py, &config), is_cancelled(py, caller)?);
            plane.call_method1(intern!(py, "reload_config"), arguments).map(drop)
        })
    }

    fn load_model(&self, model: &str, config: Option<&str>, caller: &WaitingCall) -> Result<()> {
        self.call(|plane| {
            let py = plane.py();
            plane.call_method1(intern!(py, "load_model"), (model, config, is_cancelled(py, caller)?)).map(drop)
        })
    }

    fn unload_model(&self, model: &str, caller: &WaitingCall) -> Result<()> {
        self.call(|plane| {
            let py = plane.py();
            plane.call_method1(intern!(py, "unload_model"), (model, is_cancelled(py, caller)?)).map(drop)
        })
    }

    fn administer(&self, request: &AdminRequest, caller: &WaitingCall) -> Result<AdminAnswer> {
        self.call(|plane| {
            let py = plane.py();
            let AdminRequest { method, target, body } = request;
            let arguments = (method, target, PyBytes::new(py, body), is_cancelled(py, caller)?);
            let answer: PyAdminAnswer = plane.call_method1(intern!(py, "administer"), arguments)?.extract()?;
            Ok(AdminAnswer {
                code: Code::from_number(answer.code),
                content_type: answer.content_type,
                body: answer.body.into(),
            })
        })
    }

    fn scrape(&self) -> Result<Vec<Family>> {
        self.call(|plane| {
            let families: Vec<PyFamily> = plane.call_method0(intern!(plane.py(), "scrape"))?.extract()?;
            families.into_iter().map(PyFamily::into_family).collect()
        })
    }
}

/// `servable._server.border.control_plane.AdminAnswer`.
#[derive(FromPyObject)]
struct PyAdminAnswer {
    code: i32,
    content_type: String,
    body: Vec<u8>,
}

/// A function for Python that returns whether the call is cancelled: it needs no answer any longer.
fn is_cancelled<'py>(py: Python<'py>, caller: &WaitingCall) -> PyResult<Bound<'py, PyCFunction>> {
    let caller = caller.clone();
    let is_cancelled = move |_: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| caller.check().is_err();
    PyCFunction::new_closure(py, Some(c"is_cancelled"), None, is_cancelled)
}
