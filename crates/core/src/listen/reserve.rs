//! Threads of the runtime in reserve, for those that runs hold.
//!
//! The runtime has a fixed number of threads. Some of them are made to rest, by tasks that block them, until others are
//! held up; they take no part in anything until then.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;

use crate::placement;

/// The threads in reserve.
#[derive(Default)]
pub(super) struct Reserve {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// How many threads are to rest, how many do, and how many will when they have time to.
    wanted: usize,
    resting: usize,
    coming: usize,
}

impl Reserve {
    /// How many threads rest.
    pub(super) fn resting(&self) -> usize {
        self.state().resting
    }

    /// Has so many threads rest, from now on or as soon as they come to it.
    pub(super) fn keep(self: &Arc<Self>, wanted: usize, runtime: &Handle) {
        let mut state = self.state();
        state.wanted = wanted;
        let missing = wanted.saturating_sub(state.resting + state.coming);
        state.coming += missing;
        let are_needed = state.resting > wanted;
        drop(state);
        // This is called hundreds of times a second, and nearly always for nothing.
        if are_needed {
            self.changed.notify_all();
        }
        for _ in 0..missing {
            let reserve = Arc::clone(self);
            runtime.spawn(async move {
                // Of what waits for a thread, others can take over all but what was woken last. From now on that is this.
                tokio::spawn(async {});
                reserve.rest();
            });
        }
    }

    /// Rests for as long as the calling thread is not needed.
    fn rest(&self) {
        let mut state = self.state();
        state.coming -= 1;
        if state.resting < state.wanted {
            state.resting += 1;
            placement::leave();
            let rested = self.changed.wait_while(state, |state| state.resting <= state.wanted);
            rested.unwrap_or_else(PoisonError::into_inner).resting -= 1;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
