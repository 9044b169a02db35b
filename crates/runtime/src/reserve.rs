//! Threads of the runtime in reserve, for those that runs hold.
//!
//! The runtime has a fixed number of threads. Some of them are made to rest, by tasks that block them, until others are
//! held up; they take no part in anything until then.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};

use tokio::runtime::Handle;
use tokio::task::{block_in_place, yield_now};

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

/// Has other threads go on with the tasks that have yielded on this one; says whether it still is one of the runtime's.
///
/// Such tasks wait on their thread until that has nothing else to do, and nobody else finds them there. Before a thread
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
