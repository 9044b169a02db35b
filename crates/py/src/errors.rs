//! Errors across the border: a code and a message. Python owns the classes (`servable.errors`).

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use servable_model::error::{Code, ServingError};

/// The exception for an error of the request path.
pub(crate) fn to_python(py: Python<'_>, error: &ServingError) -> PyErr {
    let made = errors_module(py)
        .and_then(|errors| errors.call_method1(intern!(py, "from_code"), (error.code as i32, error.text())));
    made.map_or_else(|failed| failed, |exception| PyErr::from_value(exception))
}

/// An exception of the named class of `servable.errors`.
pub(crate) fn named(py: Python<'_>, class: &str, message: &str) -> PyErr {
    let made = errors_module(py).and_then(|errors| errors.call_method1(class, (message,)));
    made.map_or_else(|failed| failed, |exception| PyErr::from_value(exception))
}

/// The error of the request path for an exception: code and message of a `ServableError`, otherwise `INTERNAL` and the
/// text.
pub(crate) fn from_python(py: Python<'_>, error: &PyErr) -> ServingError {
    let value = error.value(py);
    let is_ours = errors_module(py)
        .and_then(|errors| errors.getattr(intern!(py, "ServableError")))
        .and_then(|class| value.is_instance(&class));
    if !is_ours.unwrap_or(false) {
        return ServingError::internal(error.to_string());
    }
    let code = value.getattr(intern!(py, "code")).and_then(|code| code.extract::<i32>());
    let message = value.getattr(intern!(py, "message")).and_then(|message| message.extract::<String>());
    match (code, message) {
        (Ok(code), Ok(message)) => ServingError::new(Code::from_number(code), message),
        _ => ServingError::internal(error.to_string()),
    }
}

fn errors_module(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    py.import(intern!(py, "servable.errors")).map_err(|failed| PyRuntimeError::new_err(failed.to_string()))
}
