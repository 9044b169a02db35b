//! Loads and unloads on a background thread of low priority.

use std::sync::Arc;

use pyo3::prelude::*;
use servable_model::error::{Code, Result, ServingError};
use servable_native::{run_in_background, set_slice};
use servable_runtime::placement;
use servable_server::serving::servable::Servable;

use crate::errors;
use crate::servable::PyServable;

/// Runs a task on a background thread with the given name, or on the calling thread.
///
/// # Errors
///
/// `RESOURCE_EXHAUSTED` if the system cannot start a thread.
pub(crate) fn run_maybe_in_background<T: Send>(background: Option<&str>, task: impl FnOnce() -> T + Send) -> Result<T> {
    let Some(name) = background else { return Ok(task()) };
    let _loading = placement::loading(set_slice);
    run_in_background(name, task)
        .map_err(|error| ServingError::new(Code::ResourceExhausted, format!("no thread to {name} in: {error}")))
}

/// Loads a servable of a native runtime, without the interpreter lock.
///
/// # Errors
///
/// The error of `load` as an exception.
pub(crate) fn load_servable(
    py: Python<'_>,
    in_background: bool,
    load: impl FnOnce() -> Result<Arc<Servable>> + Send,
) -> PyResult<PyServable> {
    py.detach(|| run_maybe_in_background(in_background.then_some("load"), load)?)
        .map(PyServable::new)
        .map_err(|error| errors::to_python(py, &error))
}
