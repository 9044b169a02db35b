//! The reserve: workers that are parked until others block in runs.
//!
//! The async runtime has a fixed number of workers. A blocking task keeps a worker in the reserve.

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
    /// The wanted and the actual number of workers in reserve, and the number of queued tasks that add one.
    wanted: usize,
    resting: usize,
    coming: usize,
}

impl Reserve {
    /// The number of workers in reserve.
    pub(super) fn resting(&self) -> usize {
        self.state().resting
    }

    /// Sets the size of the reserve. Missing workers join when they next look for work.
    pub(super) fn keep(self: &Arc<Self>, wanted: usize, runtime: &Handle) {
        let mut state = self.state();
        state.wanted = wanted;
        let missing = wanted.saturating_sub(state.resting + state.coming);
        state.coming += missing;
        let are_needed = state.resting > wanted;
        drop(state);
        // Called hundreds of times a second, nearly always without a change.
        if are_needed {
            self.changed.notify_all();
        }
        for _ in 0..missing {
            let reserve = Arc::clone(self);
            runtime.spawn(async move {
                // Other workers can steal all tasks but the last one woken. This empty task becomes the last one.
                tokio::spawn(async {});
                reserve.rest();
            });
        }
    }

    /// Blocks the calling worker while it is in reserve.
    fn rest(&self) {
        // Another thread becomes the worker.
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

/// Moves the tasks that have yielded on this worker to others. Returns whether the thread still is a worker.
///
/// Such tasks wait on their worker until it has nothing else to do, and other workers cannot steal them.
/// `block_in_place` wakes them, and offers the role of the worker to another thread, which may take it before this
/// thread gets it back.
fn move_deferred_away() -> bool {
    block_in_place(|| ());
    // On a thread that is no longer a worker, a task that yields is woken at once.
    let woken = Arc::<Woken>::default();
    let waker = Waker::from(Arc::clone(&woken));
    let _ = pin!(yield_now()).poll(&mut Context::from_waker(&waker));
    !woken.0.load(Ordering::Relaxed)
}

/// Records that it was woken.
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
    fn a_task_that_has_yielded_moves_when_its_worker_enters_the_reserve() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
        let reserve = Arc::<Reserve>::default();
        for _ in 0..20 {
            let (is_held, may_end) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
            let (held, end) = (Arc::clone(&is_held), Arc::clone(&may_end));
            // One thread is busy, so that the other one runs all tasks.
            runtime.spawn(async move {
                held.store(true, Ordering::Relaxed);
                waits_for(|| end.load(Ordering::Relaxed));
            });
            assert!(waits_for(|| is_held.load(Ordering::Relaxed)));
            let (sender, gone_on) = mpsc::channel();
            let (calls, handle) = (Arc::clone(&reserve), runtime.handle().clone());
            runtime.spawn(async move {
                calls.keep(1, &handle);
                // The task spawned last starts first.
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
