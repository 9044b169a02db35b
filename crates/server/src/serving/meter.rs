//! Counts one request, from the moment it has arrived until its answer is written.

use std::time::Instant;

use crate::metrics::{Entry, Metrics};
use crate::serving::map::{Handle, Resolved};
use servable_model::error::{Code, Result};

/// A request that is being answered.
///
/// It owns the claim on the version that answers, whose counters are at hand then. One that is dropped unfinished has
/// lost its client, and counts as cancelled if a version was already at work on it.
pub(crate) struct RequestMeter {
    entry: Entry,
    start: Instant,
    claimed: Option<Resolved>,
}

impl RequestMeter {
    /// Begins to measure.
    pub(crate) fn start(entry: Entry) -> Self {
        Self { entry, start: Instant::now(), claimed: None }
    }

    /// When the request began to be worked on.
    pub(crate) fn started(&self) -> Instant {
        self.start
    }

    /// Claims the version that answers, which `find` finds, unless it is claimed already.
    ///
    /// # Errors
    ///
    /// What `find` reports.
    pub(crate) fn claim(&mut self, find: impl FnOnce() -> Result<Resolved>) -> Result<&mut Resolved> {
        match &mut self.claimed {
            Some(claimed) => Ok(claimed),
            none => Ok(none.insert(find()?)),
        }
    }

    /// Says how it came in, once that is known.
    pub(crate) fn set_entry(&mut self, entry: Entry) {
        self.entry = entry;
    }

    /// Counts the request, which named a model like this and ended with this code.
    pub(crate) fn finish(mut self, metrics: &Metrics, model: &[u8], code: Code) {
        match self.claimed.take() {
            Some(Resolved { handle, .. }) => self.count_at(&handle, code),
            None if code == Code::Ok => metrics.of_any(model).answered(self.entry, self.start.elapsed()),
            None => metrics.of_any(model).count(code),
        }
    }

    fn count_at(&self, handle: &Handle, code: Code) {
        handle.metrics().count(code);
        match code {
            Code::Ok => handle.model().answered(self.entry, self.start.elapsed()),
            failure => handle.model().count(failure),
        }
    }
}

/// The code that a request ends with.
pub(crate) fn code_of<T>(answer: &Result<T>) -> Code {
    answer.as_ref().err().map_or(Code::Ok, |error| error.code)
}

impl Drop for RequestMeter {
    fn drop(&mut self) {
        if let Some(Resolved { handle, .. }) = self.claimed.take() {
            self.count_at(&handle, Code::Cancelled);
        }
    }
}
