//! Loads and unloads on a thread that gives way to requests.

use servable_model::error::{Code, Result, ServingError};
use servable_runtime::placement;
use servable_tensorflow::{run_in_background, set_slice};

/// Runs a task on a thread that gives way to requests, which is named so, or else on this one.
///
/// # Errors
///
/// `RESOURCE_EXHAUSTED` if the system gives no thread.
pub(crate) fn on_a_thread<T: Send>(background: Option<&str>, task: impl FnOnce() -> T + Send) -> Result<T> {
    let Some(name) = background else { return Ok(task()) };
    let _loading = placement::loading(set_slice);
    run_in_background(name, task)
        .map_err(|error| ServingError::new(Code::ResourceExhausted, format!("no thread to {name} in: {error}")))
}
