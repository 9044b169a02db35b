//! The interpreters of one model, each for one run at a time.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use servable_model::call::timed_out;
use servable_model::error::Result;
use servable_model::tensor::Tensor;

use crate::interpreter::Interpreter;

/// A pool of interpreters.
pub(crate) struct Pool {
    /// Those that are free; the one that was used last is at the end, and its memory in caches.
    free: Mutex<Vec<Interpreter>>,
    returned: Condvar,
}

impl Pool {
    pub(crate) fn new(interpreters: Vec<Interpreter>) -> Self {
        Self { free: Mutex::new(interpreters), returned: Condvar::new() }
    }

    /// Takes an interpreter, preferably one whose last run of the graph had the same shapes. Waits until one is free.
    ///
    /// # Errors
    ///
    /// `DEADLINE_EXCEEDED` if that takes too long.
    pub(crate) fn take(&self, graph: usize, inputs: &[Tensor], deadline: Option<Instant>) -> Result<Taken<'_>> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let same = free.iter().rposition(|interpreter| interpreter.has_shapes(graph, inputs));
            let taken = match same {
                Some(position) => Some(free.remove(position)),
                None => free.pop(),
            };
            if let Some(interpreter) = taken {
                return Ok(Taken { pool: self, interpreter: Some(interpreter) });
            }
            free = match deadline {
                None => self.returned.wait(free).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(timed_out());
                    }
                    self.returned.wait_timeout(free, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// An interpreter that returns to its pool when this is dropped.
pub(crate) struct Taken<'a> {
    pool: &'a Pool,
    interpreter: Option<Interpreter>,
}

impl std::ops::Deref for Taken<'_> {
    type Target = Interpreter;

    fn deref(&self) -> &Interpreter {
        self.interpreter.as_ref().expect("it is there until the drop")
    }
}

impl std::ops::DerefMut for Taken<'_> {
    fn deref_mut(&mut self) -> &mut Interpreter {
        self.interpreter.as_mut().expect("it is there until the drop")
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut free = self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.extend(self.interpreter.take());
        drop(free);
        self.pool.returned.notify_one();
    }
}
