//! The reserve: workers that are parked until others block in runs.
//!
//! The async runtime has a fixed number of workers. A task that blocks keeps a worker of the reserve out of everything.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};

use tokio::runtime::Handle;
use tokio::task::{block_in_place, yield_now};

use crate::placement;

/// The workers in reserve.
#[derive(Default)]
pub(super) struct Reserve {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// How many workers are wanted in reserve, how many are there, and how many tasks that bring one are queued.
    wanted: usize,
    resting: usize,
    coming: usize,
}

impl Reserve {
    /// How many workers are in reserve.
    pub(super) fn resting(&self) -> usize {
        self.state().resting
    }

    /// Sets how many workers the reserve has; missing ones join when they next look for work.
    pub(super) fn keep(self: &Arc<Self>, wanted: usize, runtime: &Handle) {
        let mut state = self.state();
        state.wanted = wanted;
        let missing = wanted.saturating_sub(state.resting + state.coming);
        state.coming += missing;
        let are_needed = state.resting > wanted;
        drop(state);
        // Called hundreds of times a second, and nearly always without a change.
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

    /// Blocks the calling worker while it is in reserve.
    fn rest(&self) {
        // Another thread takes the place of this one.
        placement::leave();
        let is_worker = move_deferred_away();
        let mut state = self.state();
        state.coming -= 1;
        if is_worker && state.resting < state.wanted {
            state.resting += 1;
            let rested = self.changed.wait_while(state, |state| state.resting <= state.wanted);
            rested.unwrap_or_else(PoisonError::into_inner).resting -= 1;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves the tasks that have yielded on this worker to others; says whether the thread still is a worker.
///
/// Such tasks wait on their worker until it has nothing else to do, and no other worker finds them there. Before a thread
/// blocks in a way that the runtime knows of, they are called away; and all else that the thread is there for is offered
/// to another one, which may be quicker than this one is in taking it back.
fn move_deferred_away() -> bool {
    block_in_place(|| ());
    // On a thread that no longer is one of the runtime's, a task that yields is woken at once.
    let woken = Arc::<Woken>::default();
    let waker = Waker::from(Arc::clone(&woken));
    let _ = pin!(yield_now()).poll(&mut Context::from_waker(&waker));
    !woken.0.load(Ordering::Relaxed)
}

/// Notes that it was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;

    const FAR: Duration = Duration::from_secs(10);

    fn waits_for(condition: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        while !condition() && start.elapsed() < FAR {
            std::thread::sleep(Duration::from_millis(1));
        }
        condition()
    }

    #[test]
    fn a_task_that_has_yielded_goes_on_elsewhere_when_its_thread_goes_to_rest() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
        let reserve = Arc::<Reserve>::default();
        for _ in 0..20 {
            let (is_held, may_end) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
            let (held, end) = (Arc::clone(&is_held), Arc::clone(&may_end));
            // One thread has no time, so that the other one does all there is to do.
            runtime.spawn(async move {
                held.store(true, Ordering::Relaxed);
                waits_for(|| end.load(Ordering::Relaxed));
            });
            assert!(waits_for(|| is_held.load(Ordering::Relaxed)));
            let (sender, gone_on) = mpsc::channel();
            let (calls, handle) = (Arc::clone(&reserve), runtime.handle().clone());
            runtime.spawn(async move {
                calls.keep(1, &handle);
                // What is spawned last begins first.
                tokio::spawn(async move {
                    yield_now().await;
                    let _ = sender.send(());
                });
            });
            let rests = || {
                reserve.keep(1, runtime.handle());
                reserve.resting() == 1
            };
            assert!(waits_for(rests));
            may_end.store(true, Ordering::Relaxed);
            let goes_on = gone_on.recv_timeout(FAR / 2).is_ok();
            reserve.keep(0, runtime.handle());
            assert!(goes_on);
            assert!(waits_for(|| reserve.resting() == 0));
        }
    }
}
