//! The meter of one request, from its arrival until its answer is encoded.

use std::time::Instant;

use crate::metrics::{Entry, Metrics};
use crate::serving::map::{Handle, Resolved};
use servable_model::error::{Code, Result};

/// The meter of a request in progress.
///
/// It owns the handle of the version that answers, and so reaches its counters without a look-up. A meter that is
/// dropped before `finish` has lost its client. It counts as cancelled if a version was resolved.
pub(crate) struct RequestMeter {
    entry: Entry,
    start: Instant,
    claimed: Option<Resolved>,
}

impl RequestMeter {
    /// Starts the measurement.
    pub(crate) fn start(entry: Entry) -> Self {
        Self { entry, start: Instant::now(), claimed: None }
    }

    /// The start of the measurement.
    pub(crate) fn started(&self) -> Instant {
        self.start
    }

    /// Resolves the version by `find`, at the first call only.
    ///
    /// # Errors
    ///
    /// Those of `find`.
    pub(crate) fn claim(&mut self, find: impl FnOnce() -> Result<Resolved>) -> Result<&mut Resolved> {
        match &mut self.claimed {
            Some(claimed) => Ok(claimed),
            none => Ok(none.insert(find()?)),
        }
    }

    /// Sets the API by which the request arrived.
    pub(crate) fn set_entry(&mut self, entry: Entry) {
        self.entry = entry;
    }

    /// Counts the request by the model that it named and its resulting code.
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

/// The code of a result.
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
