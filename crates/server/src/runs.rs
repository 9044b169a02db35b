//! The running executions of a servable, and how many of them are stuck.
//!
//! Python functions and blocking operations cannot be cancelled. Such a run may continue after its deadline, and
//! occupies its thread and keeps its version loaded. It is counted here. Operators see the count, and requests that
//! would wait for a stuck run are refused.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slab::Slab;

use servable_model::error::{Code, ServingError};

/// A run is stuck if it still runs this long after its deadline.
const GRACE: Duration = Duration::from_secs(1);

/// The runs of one servable, without those that are expected to be short.
#[derive(Debug, Default)]
pub(crate) struct RunsUnderWay {
    count: AtomicUsize,
    deadlines: Mutex<Slab<Option<Instant>>>,
}

impl RunsUnderWay {
    /// Registers a run until the result is dropped.
    pub(crate) fn begin(self: &Arc<Self>, deadline: Option<Instant>) -> RunUnderWay {
        self.count.fetch_add(1, Ordering::Relaxed);
        let number = self.deadlines().insert(deadline);
        RunUnderWay { runs: Arc::clone(self), number }
    }

    /// The number of stuck runs.
    pub(crate) fn stuck(&self) -> usize {
        if self.count.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        let now = Instant::now();
        let is_stuck = |deadline: &Option<Instant>| deadline.is_some_and(|deadline| now > deadline + GRACE);
        self.deadlines().iter().filter(|(_, deadline)| is_stuck(deadline)).count()
    }

    /// The error for a request that waits for one of `room` permits, if stuck runs have all of them.
    pub(crate) fn refusal(&self, room: usize) -> Option<ServingError> {
        let under_way = self.count.load(Ordering::Relaxed);
        if under_way < room.max(1) || self.stuck() < under_way {
            return None;
        }
        Some(ServingError::new(
            Code::Unavailable,
            format!("There is no room for another run: {}", stuck_runs_text(under_way)),
        ))
    }

    fn deadlines(&self) -> MutexGuard<'_, Slab<Option<Instant>>> {
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The text about stuck runs, for operators and clients.
pub(crate) fn stuck_runs_text(count: usize) -> String {
    let (runs, are) = if count == 1 { ("run", "is") } else { ("runs", "are") };
    format!("{count} {runs} of the model {are} stuck: past the deadline, and the runtime does not stop")
}

/// A registered run.
#[derive(Debug)]
#[must_use = "the run is under way for as long"]
pub(crate) struct RunUnderWay {
    runs: Arc<RunsUnderWay>,
    number: usize,
}

impl Drop for RunUnderWay {
    fn drop(&mut self) {
        self.runs.deadlines().remove(self.number);
        self.runs.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_stuck_that_go_on_after_their_deadline_and_refuse_others_when_all_are() {
        let runs = Arc::<RunsUnderWay>::default();
        let now = Instant::now();
        let past = now.checked_sub(Duration::from_secs(5)).expect("the clock is not at its start");
        let good = runs.begin(Some(now + Duration::from_secs(60)));
        let endless = runs.begin(None);
        let first = runs.begin(Some(past));
        assert_eq!(runs.stuck(), 1);
        assert!(runs.refusal(3).is_none(), "two of them end");
        drop((good, endless));
        assert!(runs.refusal(2).is_none(), "there is room");
        let refusal = runs.refusal(1).expect("all are stuck");
        assert_eq!(
            refusal.to_string(),
            "UNAVAILABLE: There is no room for another run: 1 run of the model is stuck: past the deadline, and the \
             runtime does not stop"
        );
        drop(first);
        assert_eq!(runs.stuck(), 0);
        assert!(runs.refusal(0).is_none());
    }
}
