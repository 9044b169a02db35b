//! The threads that run batches, and take turns at the queues that share them.
//!
//! All queues of a scheduler are under one lock, which is held for a fraction of a microsecond: to find a request its
//! place, or a thread its batch. Tensors are joined, run, split and freed outside.
//!
//! As many batches run at once as there are places, whoever runs them: a caller that can run a batch itself takes the
//! place of a thread for as long, see [`Pool::lead`]. A batch that runs for long gives its place up where others need it,
//! see [`super::slots`]; so that somebody sees to that, there is always one thread more than those that are at work.

mod state;

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::adaptive::Explanation;
use super::options::BatchingOptions;
use super::slots::Owner;
use super::statistics::Statistics;
use super::task::Task;
use super::work::RunBatch;
use servable_model::error::Result;
use state::{State, Wake};

/// What the threads share with the queues that they serve.
pub(super) struct Pool {
    state: Mutex<State>,
    work: Condvar,
    timer: Condvar,
    /// How the names of the threads begin.
    name: String,
    /// Those that have not ended, as far as is known.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    /// A pool in which so many batches run at once, on threads whose names begin so.
    ///
    /// # Errors
    ///
    /// If the system gives it no threads.
    pub(super) fn start(slots: usize, name: &str) -> io::Result<Arc<Self>> {
        let pool = Arc::new(Self {
            state: Mutex::new(State::new(slots)),
            work: Condvar::new(),
            timer: Condvar::new(),
            name: name.to_owned(),
            threads: Mutex::default(),
        });
        for _ in 0..slots {
            if let Err(error) = pool.start_thread() {
                pool.close();
                return Err(error);
            }
        }
        Ok(pool)
    }

    fn start_thread(self: &Arc<Self>) -> io::Result<()> {
        let number = {
            let mut state = self.state();
            state.started += 1;
            state.started - 1
        };
        let pool = Arc::clone(self);
        let name = format!("{}_{number}", self.name);
        let thread = std::thread::Builder::new().name(name).spawn(move || pool.serve())?;
        let mut threads = self.threads();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// Waits until all threads have ended, once the pool is closed.
    pub(super) fn join(&self) {
        let own = std::thread::current().id();
        loop {
            let threads = std::mem::take(&mut *self.threads());
            // A thread of the pool that lets go of the pool cannot wait for itself.
            if threads.is_empty() || threads.iter().any(|thread| thread.thread().id() == own) {
                return;
            }
            for thread in threads {
                // Threads do not panic: what they run is caught.
                drop(thread.join());
            }
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a queue; gives its number.
    pub(super) fn add(
        &self,
        owner: Arc<Owner>,
        options: BatchingOptions,
        run: Arc<dyn RunBatch>,
        statistics: Arc<Statistics>,
    ) -> usize {
        self.state().add(owner, options, run, statistics)
    }

    /// How a queue keeps to its latency objective, if it has one.
    pub(super) fn explain(&self, number: usize) -> Option<Explanation> {
        let adaptive = self.state().queues[number].adaptive.clone();
        adaptive.map(|adaptive| adaptive.explain())
    }

    /// Puts a task into a queue; says whether its caller, if it `can_lead`, has to call [`Pool::lead`] soon.
    ///
    /// # Errors
    ///
    /// As [`super::Queue::submit`].
    pub(super) fn submit(&self, number: usize, task: Task, can_lead: bool, now: Instant) -> Result<bool> {
        let mut state = self.state();
        let submitted = state.submit(number, task, can_lead, now);
        let cancelled = std::mem::take(&mut state.cancelled);
        drop(state);
        // Those whose time is over are told so.
        for (task, statistics) in cancelled {
            if let Err(why) = task.begin(now) {
                statistics.dropped(why);
            }
        }
        // A task that is refused is dropped out here, with all its memory.
        let (wake, leads) = submitted.map_err(|(error, _)| error)?;
        self.wake(wake);
        Ok(leads)
    }

    /// Runs a batch of this queue on the calling thread, if there is a place for it; otherwise whoever leaves one sees to
    /// what waits. Says how many requests were run.
    pub(super) fn lead(&self, number: usize, since: Instant) -> usize {
        let now = Instant::now();
        let mut state = self.state();
        let queue = &mut state.queues[number];
        queue.consume_lead(since);
        let owner = Arc::clone(&queue.owner);
        if !state.has_spare_slot() || !state.slots.admits(&owner) {
            let wake = state.wake_for_remaining(now);
            drop(state);
            self.wake(wake);
            return 0;
        }
        let taken = state.take_from(number, now);
        // Without a batch, too: what was ready may have been dropped, or has to wait longer by a later decision, and
        // nobody watched what has begun to wait since then.
        let wake = state.wake_for_remaining(now);
        drop(state);
        self.wake(wake);
        let Some((work, run, removed)) = taken else { return 0 };
        drop(removed);
        let ran = work.execute(now);
        // First the place is left: whoever has an answer may be back before this thread goes on, and lead the next batch.
        let mut state = self.state();
        state.slots.release(run);
        let wake = if state.turns.is_empty() { Wake::None } else { state.wake_for_remaining(Instant::now()) };
        drop(state);
        self.wake(wake);
        ran.answer()
    }

    /// Leaves to the threads what a caller was to run.
    pub(super) fn decline_lead(&self, number: usize, since: Instant) {
        let mut state = self.state();
        state.queues[number].consume_lead(since);
        let wake = state.wake_for_remaining(Instant::now());
        drop(state);
        self.wake(wake);
    }

    /// Takes nothing more into a queue, and takes it out when it is empty.
    pub(super) fn remove(&self, number: usize) {
        let mut state = self.state();
        state.queues[number].waiting.close();
        let removed = state.remove_if_done(number);
        let wake = state.wake_for_remaining(Instant::now());
        drop(state);
        drop(removed);
        self.wake(wake);
    }

    /// Takes nothing more into any queue, and ends the threads when all are empty.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_closing = true;
        state.queues.iter_mut().for_each(|(_, queue)| queue.waiting.close());
        drop(state);
        self.work.notify_all();
        self.timer.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, wake: Wake) {
        match wake {
            Wake::None => {}
            Wake::Worker => self.work.notify_one(),
            // By now another thread may have begun to keep the time; both are to look.
            Wake::Timer => self.timer.notify_all(),
        }
    }

    /// Runs batches, on the calling thread, until the pool is closed and nothing waits any more, or the thread is one too
    /// many.
    fn serve(self: &Arc<Self>) {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            if let Some((work, run, removed)) = state.take(now) {
                state.working += 1;
                let is_last = state.working == state.threads && !state.is_closing;
                state.threads += usize::from(is_last);
                let wake = state.wake_for_remaining(now);
                drop(state);
                self.wake(wake);
                drop(removed);
                if is_last && self.start_thread().is_err() {
                    // The next one that goes to work tries again.
                    self.state().threads -= 1;
                }
                // Only then the place is left: for what the callers send next this thread need not be woken.
                work.execute(now).answer();
                state = self.state();
                state.working -= 1;
                state.slots.release(run);
                if state.threads - state.working > state.slots.total() + 1 {
                    state.threads -= 1;
                    let wake = state.wake_for_remaining(Instant::now());
                    drop(state);
                    self.wake(wake);
                    return;
                }
            } else if state.is_closing {
                return;
            } else {
                state = self.wait_for_work(state, now);
            }
        }
    }

    /// Waits until there may be work; one of the threads that do so where batches wait for their time also keeps the time.
    ///
    /// The one that does so already may wait for too long: when it looked, what is due first may have had no place, and this
    /// thread has just left one. It goes back to the others then.
    fn wait_for_work<'a>(&'a self, mut state: MutexGuard<'a, State>, now: Instant) -> MutexGuard<'a, State> {
        let kept = state.timer.map(|(until, _)| until);
        let sooner = state.next_wakeup(now).filter(|&next| kept.is_none_or(|kept| next < kept));
        if let Some(until) = sooner {
            if kept.is_some() {
                self.timer.notify_all();
            }
            state.generation += 1;
            let own = Some((until, state.generation));
            state.timer = own;
            let waited = self.timer.wait_timeout(state, until.saturating_duration_since(now));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.timer == own {
                state.timer = None;
            }
        } else {
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
            state.woken = state.woken.saturating_sub(1);
        }
        state
    }
}
