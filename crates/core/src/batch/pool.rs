//! The threads that run batches, and the turns of the queues that share them.
//!
//! All queues of a scheduler are under one lock, which is held for a fraction of a microsecond: to find a request its
//! place, or a thread its batch. Tensors are joined, run, split and freed outside.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use slab::Slab;

use super::options::BatchingOptions;
use super::queue::Waiting;
use super::task::Task;
use super::work::{RunBatch, Work};
use crate::error::{Code, Result, ServingError};

/// A queue as the threads see it.
struct Line {
    waiting: Waiting,
    options: Arc<BatchingOptions>,
    run: Arc<dyn RunBatch>,
}

/// Which thread has to look at the queues because of a change.
#[derive(Clone, Copy)]
enum Wake {
    Nobody,
    /// One that waits for work.
    Worker,
    /// The one that waits for a batch to have waited long enough.
    Timekeeper,
}

/// What the threads share with the queues that they serve.
#[derive(Default)]
pub(super) struct Pool {
    state: Mutex<State>,
    work: Condvar,
    clock: Condvar,
}

#[derive(Default)]
struct State {
    lines: Slab<Line>,
    /// The queues in which something waits, in the order of their turns.
    turns: VecDeque<usize>,
    /// Threads that wait for work, and how many of them have been woken since and have not come yet.
    idle: usize,
    woken: usize,
    /// Until when the one thread waits that keeps the time, if one does, and the number that it has drawn for that.
    timekeeper: Option<(Instant, u64)>,
    drawn: u64,
    is_closing: bool,
}

impl State {
    /// Finds a task its place, or gives it back.
    fn submit(&mut self, number: usize, task: Task, now: Instant) -> Result<Wake, (ServingError, Task)> {
        let line = &mut self.lines[number];
        if self.is_closing {
            return Err((ServingError::new(Code::Unavailable, "The batch scheduling queue is closed"), task));
        }
        let place = match line.waiting.admit(&task) {
            Ok(place) => place,
            Err(error) => return Err((error, task)),
        };
        if line.waiting.is_empty() {
            self.turns.push_back(number);
        }
        let began = line.waiting.insert(task, &place, now);
        Ok(if line.waiting.is_ready(now) {
            self.wake_worker()
        } else if began {
            let timeout = line.waiting.next_timeout();
            self.wake_to_watch(timeout)
        } else {
            Wake::Nobody
        })
    }

    /// Wakes a thread for a batch that is ready; those that are busy will look before they rest.
    fn wake_worker(&mut self) -> Wake {
        if self.idle > self.woken {
            self.woken += 1;
            Wake::Worker
        } else if self.timekeeper.take().is_some() {
            Wake::Timekeeper
        } else {
            Wake::Nobody
        }
    }

    /// Makes sure that some thread, unless all are busy, comes when a batch has waited until then.
    fn wake_to_watch(&mut self, timeout: Option<Instant>) -> Wake {
        match (self.timekeeper, timeout) {
            (Some((until, _)), Some(timeout)) if timeout < until => {
                self.timekeeper = None;
                Wake::Timekeeper
            }
            (None, Some(_)) => self.wake_worker(),
            _ => Wake::Nobody,
        }
    }

    /// The next batch in turn.
    fn take(&mut self, now: Instant) -> Option<(Work, Option<Line>)> {
        for turn in 0..self.turns.len() {
            let number = self.turns[turn];
            let line = &mut self.lines[number];
            let Some((batch, _)) = line.waiting.take(now) else { continue };
            let work = Work { batch, options: Arc::clone(&line.options), run: Arc::clone(&line.run) };
            self.turns.remove(turn);
            if !line.waiting.is_empty() {
                self.turns.push_back(number);
            }
            return Some((work, self.remove_if_done(number)));
        }
        None
    }

    /// Takes out a queue that is closed and empty, to be dropped outside the lock.
    fn remove_if_done(&mut self, number: usize) -> Option<Line> {
        let waiting = &self.lines[number].waiting;
        (waiting.is_closing() && waiting.is_empty() && !self.is_closing).then(|| self.lines.remove(number))
    }

    /// Who has to come for what is left when a thread goes off with a batch.
    fn wake_for_rest(&mut self, now: Instant) -> Wake {
        if self.turns.is_empty() {
            return Wake::Nobody;
        }
        if self.turns.iter().any(|&number| self.lines[number].waiting.is_ready(now)) {
            return self.wake_worker();
        }
        let timeout = self.next_timeout();
        self.wake_to_watch(timeout)
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.turns.iter().filter_map(|&number| self.lines[number].waiting.next_timeout()).min()
    }
}

impl Pool {
    /// Adds a queue; gives its number.
    pub(super) fn add(&self, options: BatchingOptions, run: Arc<dyn RunBatch>) -> usize {
        let options = Arc::new(options);
        let line = Line { waiting: Waiting::new(Arc::clone(&options)), run, options };
        self.state().lines.insert(line)
    }

    /// Puts a task into a queue.
    ///
    /// # Errors
    ///
    /// As [`super::Queue::submit`].
    pub(super) fn submit(&self, number: usize, task: Task, now: Instant) -> Result<()> {
        let mut state = self.state();
        let submitted = state.submit(number, task, now);
        drop(state);
        // A task that is refused is dropped out here, with all its memory.
        submitted.map(|wake| self.wake(wake)).map_err(|(error, _)| error)
    }

    /// Takes nothing more into a queue, and takes it out when it is empty.
    pub(super) fn remove(&self, number: usize) {
        let mut state = self.state();
        state.lines[number].waiting.close();
        let removed = state.remove_if_done(number);
        let wake = state.wake_for_rest(Instant::now());
        drop(state);
        drop(removed);
        self.wake(wake);
    }

    /// Takes nothing more into any queue, and ends the threads when all are empty.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_closing = true;
        state.lines.iter_mut().for_each(|(_, line)| line.waiting.close());
        drop(state);
        self.work.notify_all();
        self.clock.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, wake: Wake) {
        match wake {
            Wake::Nobody => {}
            Wake::Worker => self.work.notify_one(),
            // By now another thread may have begun to keep the time; both are to look.
            Wake::Timekeeper => self.clock.notify_all(),
        }
    }

    /// Runs batches, on the calling thread, until the pool is closed and nothing waits any more.
    pub(super) fn serve(&self) {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            if let Some((work, removed)) = state.take(now) {
                let wake = state.wake_for_rest(now);
                drop(state);
                self.wake(wake);
                drop(removed);
                work.carry_out(now);
                state = self.state();
            } else if state.is_closing {
                return;
            } else {
                state = self.rest(state, now);
            }
        }
    }

    /// Waits until there may be work; the first thread to do so where batches wait for their time also keeps the time.
    fn rest<'a>(&'a self, mut state: MutexGuard<'a, State>, now: Instant) -> MutexGuard<'a, State> {
        let timeout = if state.timekeeper.is_none() { state.next_timeout() } else { None };
        if let Some(until) = timeout {
            state.drawn += 1;
            let own = Some((until, state.drawn));
            state.timekeeper = own;
            let waited = self.clock.wait_timeout(state, until.saturating_duration_since(now));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.timekeeper == own {
                state.timekeeper = None;
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
