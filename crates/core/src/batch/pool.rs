//! The threads that run batches, and the turns of the queues that share them.
//!
//! All queues of a scheduler are under one lock, which is held for a fraction of a microsecond: to find a request its
//! place, or a thread its batch. Tensors are joined, run, split and freed outside.
//!
//! As many batches run at once as there are places, whoever runs them: a caller that can run a batch itself takes the
//! place of a thread for as long, see [`Pool::lead`]. A batch that runs for long gives its place up where others need it,
//! see [`super::places`]; so that somebody sees to that, there is always one thread more than those that are at work.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use slab::Slab;

use super::adaptive::{Adaptive, Explanation};
use super::options::BatchingOptions;
use super::places::{Owner, Places};
use super::queue::Waiting;
use super::statistics::Statistics;
use super::task::Task;
use super::work::{RunBatch, Work};
use crate::error::{Code, Result, ServingError};

/// For so long, a caller that has said that it will run a batch is believed. It is on its way through tasks that are
/// ready on its thread; one that takes longer than this is held up. Tests are, by each other.
const LEAD: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 1 });

/// A queue as the threads see it.
struct Line {
    waiting: Waiting,
    owner: Arc<Owner>,
    /// When callers have said that they will run a batch of this queue each, and have not come yet.
    leads: Vec<Instant>,
    options: Arc<BatchingOptions>,
    run: Arc<dyn RunBatch>,
    statistics: Arc<Statistics>,
    adaptive: Option<Arc<Adaptive>>,
}

/// A batch to be run, the number of its run, and its queue, if that is done with.
type Taken = (Work, usize, Option<Line>);

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
pub(super) struct Pool {
    state: Mutex<State>,
    work: Condvar,
    clock: Condvar,
    /// How the names of the threads begin.
    name: String,
    /// Those that have not ended, as far as is known.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct State {
    lines: Slab<Line>,
    places: Places,
    /// How many threads there are, how many have been started, and how many run batches.
    threads: usize,
    started: usize,
    working: usize,
    /// The queues in which something waits, in the order of their turns.
    turns: VecDeque<usize>,
    /// Threads that wait for work, and how many of them have been woken since and have not come yet.
    idle: usize,
    woken: usize,
    /// Until when the one thread waits that keeps the time, if one does, and the number that it has drawn for that.
    timekeeper: Option<(Instant, u64)>,
    drawn: u64,
    /// Requests that nobody waits for, to be dropped outside the lock.
    given_up: Vec<(Task, Arc<Statistics>)>,
    is_closing: bool,
}

impl Line {
    /// Whether a batch waits for somebody to come: there are more that are ready than callers on their way.
    fn is_due(&self, now: Instant) -> bool {
        let led = self.leads.iter().filter(|&&since| now <= since + LEAD).count();
        self.waiting.ready_count(now) > led
    }

    /// Notes that the caller is no longer on its way that has said then that it will run a batch.
    fn has_come(&mut self, since: Instant) {
        if let Some(lead) = self.leads.iter().position(|&lead| lead == since) {
            self.leads.swap_remove(lead);
        }
    }

    /// Says how long the queue has become.
    fn note_length(&self) {
        let (batches, rows) = self.waiting.length();
        self.statistics.waits(batches, rows);
    }
}

impl State {
    /// Finds a task its place, or gives it back. A caller that `can_lead` may have to.
    fn submit(
        &mut self,
        number: usize,
        task: Task,
        can_lead: bool,
        now: Instant,
    ) -> Result<(Wake, bool), (ServingError, Box<Task>)> {
        let line = &mut self.lines[number];
        if self.is_closing {
            return Err((ServingError::new(Code::Unavailable, "The batch scheduling queue is closed"), Box::new(task)));
        }
        let mut place = line.waiting.admit(&task);
        if place.as_ref().is_err_and(|error| error.code == Code::Unavailable) {
            let given_up = line.waiting.give_up(now);
            if !given_up.is_empty() {
                self.given_up.extend(given_up.into_iter().map(|task| (task, Arc::clone(&line.statistics))));
                place = line.waiting.admit(&task);
            }
            if line.waiting.is_empty() {
                self.turns.retain(|&turn| turn != number);
            }
        }
        let place = match place {
            Ok(place) => place,
            Err(error) => return Err((error, Box::new(task))),
        };
        if line.waiting.is_empty() {
            self.turns.push_back(number);
        }
        let began = line.waiting.insert(task, &place, now);
        line.note_length();
        if line.is_due(now) {
            if can_lead {
                line.leads.push(now);
                return Ok((Wake::Nobody, true));
            }
            // Where it has as many under way as there are places, whoever ends one of them sees to what waits.
            let is_open = self.places.are_open_to(&line.owner);
            return Ok((if is_open { self.wake_worker() } else { Wake::Nobody }, false));
        }
        // Whoever leads, or joins a batch that has begun, finds somebody on the way.
        let timeout = if began && line.leads.is_empty() { line.waiting.next_timeout() } else { None };
        Ok((self.wake_to_watch(timeout), false))
    }

    /// Whether there is a place beyond those of the threads that have been woken to take one.
    fn has_spare_place(&self) -> bool {
        self.places.taken() + self.woken < self.places.total()
    }

    /// Whether a batch of this queue waits for nothing but a place.
    fn needs_place(&self, number: usize, now: Instant) -> bool {
        let line = &self.lines[number];
        self.places.are_open_to(&line.owner) && line.is_due(now)
    }

    /// Wakes a thread for a batch that is ready; those that are busy will look before they rest.
    fn wake_worker(&mut self) -> Wake {
        if !self.has_spare_place() {
            // Those that have been woken take what is ready, unless there is no place for them.
            let given_up = self.places.next_given_up().filter(|_| self.places.are_full());
            self.wake_to_watch(given_up)
        } else if self.idle > self.woken {
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
        let place = if self.places.are_full() { self.places.next_given_up() } else { None };
        match (self.timekeeper, timeout.map(|timeout| place.map_or(timeout, |place| place.max(timeout)))) {
            (Some((until, _)), Some(timeout)) if timeout < until => {
                self.timekeeper = None;
                Wake::Timekeeper
            }
            (None, Some(_)) if self.idle > self.woken => {
                self.woken += 1;
                Wake::Worker
            }
            _ => Wake::Nobody,
        }
    }

    /// The next batch in turn, and its place.
    fn take(&mut self, now: Instant) -> Option<Taken> {
        // What still waits at the end has no use for limits.
        if self.is_closing {
            return (0..self.turns.len()).find_map(|turn| self.take_from(self.turns[turn], now));
        }
        let needs_place = |state: &Self| state.turns.iter().any(|&number| state.needs_place(number, now));
        if self.places.are_full() && !(needs_place(self) && self.places.give_one_up(now)) {
            return None;
        }
        (0..self.turns.len()).find_map(|turn| {
            let number = self.turns[turn];
            if self.needs_place(number, now) { self.take_from(number, now) } else { None }
        })
    }

    /// A batch of this queue, and its place.
    fn take_from(&mut self, number: usize, now: Instant) -> Option<Taken> {
        let line = &mut self.lines[number];
        let (batch, closed) = line.waiting.take(now)?;
        let run = self.places.take(&line.owner, now);
        line.note_length();
        let work = Work {
            batch,
            closed,
            options: Arc::clone(&line.options),
            run: Arc::clone(&line.run),
            statistics: Arc::clone(&line.statistics),
            adaptive: line.adaptive.clone(),
        };
        self.turns.retain(|&turn| turn != number);
        if !line.waiting.is_empty() {
            self.turns.push_back(number);
        }
        Some((work, run, self.remove_if_done(number)))
    }

    /// Takes out a queue that is closed and empty, to be dropped outside the lock.
    fn remove_if_done(&mut self, number: usize) -> Option<Line> {
        let waiting = &self.lines[number].waiting;
        (waiting.is_closing() && waiting.is_empty() && !self.is_closing).then(|| self.lines.remove(number))
    }

    /// Who has to come for what is left when somebody goes off with a batch, or does not come.
    fn wake_for_rest(&mut self, now: Instant) -> Wake {
        if self.turns.is_empty() {
            return Wake::Nobody;
        }
        if self.turns.iter().any(|&number| self.needs_place(number, now)) {
            return self.wake_worker();
        }
        let timeout = self.next_timeout();
        self.wake_to_watch(timeout)
    }

    fn next_timeout(&self) -> Option<Instant> {
        let lines = self.turns.iter().map(|&number| &self.lines[number]).filter(|line| line.leads.is_empty());
        let open = lines.filter(|line| self.places.are_open_to(&line.owner));
        open.filter_map(|line| line.waiting.next_timeout()).min()
    }

    /// When somebody has to look at the queues again, if nothing happens until then.
    fn next_look(&self, now: Instant) -> Option<Instant> {
        if !self.places.are_full() {
            return self.next_timeout();
        }
        let needs_place = self.turns.iter().any(|&number| self.needs_place(number, now));
        let ready = if needs_place { Some(now) } else { self.next_timeout() };
        ready.max(self.places.next_given_up()).filter(|_| ready.is_some())
    }
}

impl Pool {
    /// A pool in which so many batches run at once, on threads whose names begin so.
    ///
    /// # Errors
    ///
    /// If the system gives it no threads.
    pub(super) fn start(places: usize, name: &str) -> io::Result<Arc<Self>> {
        let state = State {
            lines: Slab::new(),
            places: Places::new(places),
            threads: places,
            started: 0,
            working: 0,
            turns: VecDeque::new(),
            idle: 0,
            woken: 0,
            timekeeper: None,
            drawn: 0,
            given_up: Vec::new(),
            is_closing: false,
        };
        let pool = Arc::new(Self {
            state: Mutex::new(state),
            work: Condvar::new(),
            clock: Condvar::new(),
            name: name.to_owned(),
            threads: Mutex::default(),
        });
        for _ in 0..places {
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
        let mut state = self.state();
        let adaptive = |objective| Arc::new(Adaptive::new(objective, &options, state.places.total()));
        let adaptive = options.latency_objective.map(adaptive);
        let options = Arc::new(options);
        let waiting = Waiting::new(Arc::clone(&options), adaptive.clone());
        state.lines.insert(Line { waiting, owner, leads: Vec::new(), run, options, statistics, adaptive })
    }

    /// How a queue keeps to its latency objective, if it has one.
    pub(super) fn explain(&self, number: usize) -> Option<Explanation> {
        let adaptive = self.state().lines[number].adaptive.clone();
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
        let given_up = std::mem::take(&mut state.given_up);
        drop(state);
        // Those whose time is over are told so.
        for (task, statistics) in given_up {
            if let Err(why) = task.if_wanted(now) {
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
        let line = &mut state.lines[number];
        line.has_come(since);
        let owner = Arc::clone(&line.owner);
        if !state.has_spare_place() || !state.places.are_open_to(&owner) {
            let wake = state.wake_for_rest(now);
            drop(state);
            self.wake(wake);
            return 0;
        }
        let taken = state.take_from(number, now);
        // Without a batch, too: what was ready may have been dropped, or has to wait longer by a later decision, and
        // nobody watched what has begun to wait since then.
        let wake = state.wake_for_rest(now);
        drop(state);
        self.wake(wake);
        let Some((work, run, removed)) = taken else { return 0 };
        drop(removed);
        let ran = work.carry_out(now);
        // First the place is left: whoever has an answer may be back before this thread goes on, and lead the next batch.
        let mut state = self.state();
        state.places.leave(run);
        let wake = if state.turns.is_empty() { Wake::Nobody } else { state.wake_for_rest(Instant::now()) };
        drop(state);
        self.wake(wake);
        ran.answer()
    }

    /// Leaves to the threads what a caller was to run.
    pub(super) fn resign(&self, number: usize, since: Instant) {
        let mut state = self.state();
        state.lines[number].has_come(since);
        let wake = state.wake_for_rest(Instant::now());
        drop(state);
        self.wake(wake);
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
                let wake = state.wake_for_rest(now);
                drop(state);
                self.wake(wake);
                drop(removed);
                if is_last && self.start_thread().is_err() {
                    // The next one that goes to work tries again.
                    self.state().threads -= 1;
                }
                // Only then the place is left: for what the callers send next this thread need not be woken.
                work.carry_out(now).answer();
                state = self.state();
                state.working -= 1;
                state.places.leave(run);
                if state.threads - state.working > state.places.total() + 1 {
                    state.threads -= 1;
                    let wake = state.wake_for_rest(Instant::now());
                    drop(state);
                    self.wake(wake);
                    return;
                }
            } else if state.is_closing {
                return;
            } else {
                state = self.rest(state, now);
            }
        }
    }

    /// Waits until there may be work; one of the threads that do so where batches wait for their time also keeps the time.
    ///
    /// The one that does so already may wait for too long: when it looked, what is due first may have had no place, and this
    /// thread has just left one. It goes back to the others then.
    fn rest<'a>(&'a self, mut state: MutexGuard<'a, State>, now: Instant) -> MutexGuard<'a, State> {
        let kept = state.timekeeper.map(|(until, _)| until);
        let sooner = state.next_look(now).filter(|&next| kept.is_none_or(|kept| next < kept));
        if let Some(until) = sooner {
            if kept.is_some() {
                self.clock.notify_all();
            }
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
