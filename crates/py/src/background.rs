//! Loads and unloads on a background thread of low priority.

use servable_model::error::{Code, Result, ServingError};
use servable_native::{run_in_background, set_slice};
use servable_runtime::placement;

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
