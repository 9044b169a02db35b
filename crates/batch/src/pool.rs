//! The thread pool: worker threads serve the queues round-robin.
//!
//! One lock guards all queues of a scheduler. It is held for a fraction of a microsecond, to insert a request or to
//! take a batch. Tensors are joined, run, split and freed outside the lock.
//!
//! Slots limit the batches that run concurrently. A caller may run a batch on its own thread, and takes a slot for it,
//! see [`Pool::lead`]. The slot of a long run is reclaimed when another batch needs it, see [`super::slots`]. The pool
//! keeps one thread more than are busy, so that a thread is always free to reclaim a slot.

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

/// The state that worker threads and queues share.
pub(super) struct Pool {
    state: Mutex<State>,
    work: Condvar,
    timer: Condvar,
    /// The prefix of thread names.
    name: String,
    /// The threads that are not known to have ended.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    /// Starts a pool with this number of slots. `name` is the prefix of thread names.
    ///
    /// # Errors
    ///
    /// If the system cannot start a thread.
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

    /// Joins all threads of a closed pool.
    pub(super) fn join(&self) {
        let own = std::thread::current().id();
        loop {
            let threads = std::mem::take(&mut *self.threads());
            // A thread of the pool that drops the pool cannot join itself.
            if threads.is_empty() || threads.iter().any(|thread| thread.thread().id() == own) {
                return;
            }
            for thread in threads {
                // Threads do not panic: panics of batch functions are caught.
                drop(thread.join());
            }
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a queue. Returns its number.
    pub(super) fn add(
        &self,
        owner: Arc<Owner>,
        options: BatchingOptions,
        run: Arc<dyn RunBatch>,
        statistics: Arc<Statistics>,
    ) -> usize {
        self.state().add(owner, options, run, statistics)
    }

    /// The state of the adaptive controller of a queue, if the queue has a latency objective.
    pub(super) fn explain(&self, number: usize) -> Option<Explanation> {
        let adaptive = self.state().queues[number].adaptive.clone();
        adaptive.map(|adaptive| adaptive.explain())
    }

    /// Puts a task into a queue. Returns whether its caller got the lead, and has to call [`Pool::lead`] soon.
    ///
    /// Only a caller that `can_lead` gets it.
    ///
    /// # Errors
    ///
    /// As [`super::Queue::submit`].
    pub(super) fn submit(&self, number: usize, task: Task, can_lead: bool, now: Instant) -> Result<bool> {
        let mut state = self.state();
        let submitted = state.submit(number, task, can_lead, now);
        let cancelled = std::mem::take(&mut state.cancelled);
        drop(state);
        // Expired tasks are answered.
        for (task, statistics) in cancelled {
            if let Err(why) = task.begin(now) {
                statistics.dropped(why);
            }
        }
        // A refused task is dropped outside the lock, with all its memory.
        let (wake, leads) = submitted.map_err(|(error, _)| error)?;
        self.wake(wake);
        Ok(leads)
    }

    /// Runs a batch of this queue on the calling thread, if a slot is free. Returns the number of requests that were
    /// run.
    ///
    /// Without a free slot, the next thread that frees one takes the batch.
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
        // Also without a batch: the ready one may have been dropped, or may have to wait longer by a later decision. No
        // timer was armed for batches that were opened since then.
        let wake = state.wake_for_remaining(now);
        drop(state);
        self.wake(wake);
        let Some((work, run, removed)) = taken else { return 0 };
        drop(removed);
        let ran = work.execute(now);
        // The slot is freed before the answers are sent. A caller that is answered may send its next request, and lead
        // its batch, before this thread continues.
        let mut state = self.state();
        state.slots.release(run);
        let wake = if state.turns.is_empty() { Wake::None } else { state.wake_for_remaining(Instant::now()) };
        drop(state);
        self.wake(wake);
        ran.answer()
    }

    /// Hands a batch that a caller was to run to the worker threads.
    pub(super) fn decline_lead(&self, number: usize, since: Instant) {
        let mut state = self.state();
        state.queues[number].consume_lead(since);
        let wake = state.wake_for_remaining(Instant::now());
        drop(state);
        self.wake(wake);
    }

    /// Closes a queue, and removes it once it is empty.
    pub(super) fn remove(&self, number: usize) {
        let mut state = self.state();
        state.queues[number].waiting.close();
        let removed = state.remove_if_done(number);
        let wake = state.wake_for_remaining(Instant::now());
        drop(state);
        drop(removed);
        self.wake(wake);
    }

    /// Closes all queues, and ends the threads once these are empty.
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
            // By now another thread may hold the timer. Both have to check the queues.
            Wake::Timer => self.timer.notify_all(),
        }
    }

    /// The loop of a worker thread. Ends when the pool is closed and empty, or when the thread is surplus.
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
                    // The next thread that takes a batch tries again.
                    self.state().threads -= 1;
                }
                // The slot is freed after the answers are sent. This thread then takes the next requests of these
                // callers without a wake-up.
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

    /// Waits until there may be work. While batches wait for their timeout, one of the waiting threads is the timer.
    ///
    /// The current timer may be armed too late: it ignored batches that lacked a slot, and this thread may have freed
    /// one. This thread then becomes the timer, and the other one an ordinary worker again.
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
