//! What the threads share: the queues and their turns, and who has to look at them because of what has changed.
//!
//! Nothing here waits, wakes anybody or looks at a clock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::adaptive::Adaptive;
use crate::options::BatchingOptions;
use crate::queue::Waiting;
use crate::slots::{BatchSlots, Owner};
use crate::statistics::Statistics;
use crate::task::Task;
use crate::work::{RunBatch, Work};
use servable_model::error::{Code, Result, ServingError};

/// For so long, a caller that has said that it will run a batch is believed. It is on its way through tasks that are
/// ready on its thread; one that takes longer than this is held up. Tests are, by each other.
const LEAD_TIMEOUT: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 1 });

/// A queue as the threads see it.
pub(super) struct QueueState {
    pub(super) waiting: Waiting,
    pub(super) owner: Arc<Owner>,
    /// When callers have said that they will run a batch of this queue each, and have not come yet.
    leads: Vec<Instant>,
    options: Arc<BatchingOptions>,
    run: Arc<dyn RunBatch>,
    statistics: Arc<Statistics>,
    pub(super) adaptive: Option<Arc<Adaptive>>,
}

/// A batch to be run, the number of its run, and its queue, if that is done with.
pub(super) type Taken = (Work, usize, Option<QueueState>);

/// Which thread has to look at the queues because of a change.
#[derive(Clone, Copy)]
pub(super) enum Wake {
    None,
    /// One that waits for work.
    Worker,
    /// The one that waits for a batch to have waited long enough.
    Timer,
}

/// All that is under the lock.
pub(super) struct State {
    pub(super) queues: Slab<QueueState>,
    pub(super) slots: BatchSlots,
    /// How many threads there are, how many have been started, and how many run batches.
    pub(super) threads: usize,
    pub(super) started: usize,
    pub(super) working: usize,
    /// The queues in which something waits, in the order of their turns.
    pub(super) turns: VecDeque<usize>,
    /// Threads that wait for work, and how many of them have been woken since and have not come yet.
    pub(super) idle: usize,
    pub(super) woken: usize,
    /// Until when the one thread waits that keeps the time, if one does, and the number that it has drawn for that.
    pub(super) timer: Option<(Instant, u64)>,
    pub(super) generation: u64,
    /// Cancelled requests, to be dropped outside the lock.
    pub(super) cancelled: Vec<(Task, Arc<Statistics>)>,
    pub(super) is_closing: bool,
}

impl QueueState {
    /// Whether a batch waits for somebody to come: there are more that are ready than callers on their way.
    fn is_due(&self, now: Instant) -> bool {
        let led = self.leads.iter().filter(|&&since| now <= since + LEAD_TIMEOUT).count();
        self.waiting.ready_count(now) > led
    }

    /// Notes that the caller is no longer on its way that has said then that it will run a batch.
    pub(super) fn consume_lead(&mut self, since: Instant) {
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
    /// No queues, and so many places for batches and threads.
    pub(super) fn new(slots: usize) -> Self {
        Self {
            queues: Slab::new(),
            slots: BatchSlots::new(slots),
            threads: slots,
            started: 0,
            working: 0,
            turns: VecDeque::new(),
            idle: 0,
            woken: 0,
            timer: None,
            generation: 0,
            cancelled: Vec::new(),
            is_closing: false,
        }
    }

    /// Adds a queue; gives its number.
    pub(super) fn add(
        &mut self,
        owner: Arc<Owner>,
        options: BatchingOptions,
        run: Arc<dyn RunBatch>,
        statistics: Arc<Statistics>,
    ) -> usize {
        let adaptive = |objective| Arc::new(Adaptive::new(objective, &options, self.slots.total()));
        let adaptive = options.latency_objective.map(adaptive);
        let options = Arc::new(options);
        let waiting = Waiting::new(Arc::clone(&options), adaptive.clone());
        self.queues.insert(QueueState { waiting, owner, leads: Vec::new(), run, options, statistics, adaptive })
    }

    /// Finds a task its place, or gives it back. A caller that `can_lead` may have to.
    pub(super) fn submit(
        &mut self,
        number: usize,
        task: Task,
        can_lead: bool,
        now: Instant,
    ) -> Result<(Wake, bool), (ServingError, Box<Task>)> {
        let queue = &mut self.queues[number];
        if self.is_closing {
            return Err((ServingError::new(Code::Unavailable, "The batch scheduling queue is closed"), Box::new(task)));
        }
        let mut placement = queue.waiting.admit(&task);
        if placement.as_ref().is_err_and(|error| error.code == Code::Unavailable) {
            let cancelled = queue.waiting.remove_cancelled(now);
            if !cancelled.is_empty() {
                self.cancelled.extend(cancelled.into_iter().map(|task| (task, Arc::clone(&queue.statistics))));
                placement = queue.waiting.admit(&task);
            }
            if queue.waiting.is_empty() {
                self.turns.retain(|&turn| turn != number);
            }
        }
        let placement = match placement {
            Ok(placement) => placement,
            Err(error) => return Err((error, Box::new(task))),
        };
        if queue.waiting.is_empty() {
            self.turns.push_back(number);
        }
        let began = queue.waiting.insert(task, &placement, now);
        queue.note_length();
        if queue.is_due(now) {
            if can_lead {
                queue.leads.push(now);
                return Ok((Wake::None, true));
            }
            // Where it has as many under way as there are places, whoever ends one of them sees to what waits.
            let is_open = self.slots.admits(&queue.owner);
            return Ok((if is_open { self.wake_worker() } else { Wake::None }, false));
        }
        // Whoever leads, or joins a batch that has begun, finds somebody on the way.
        let timeout = if began && queue.leads.is_empty() { queue.waiting.next_timeout() } else { None };
        Ok((self.arm_timer(timeout), false))
    }

    /// Whether there is a place beyond those of the threads that have been woken to take one.
    pub(super) fn has_spare_slot(&self) -> bool {
        self.slots.taken() + self.woken < self.slots.total()
    }

    /// Whether a batch of this queue waits for nothing but a place.
    fn needs_slot(&self, number: usize, now: Instant) -> bool {
        let queue = &self.queues[number];
        self.slots.admits(&queue.owner) && queue.is_due(now)
    }

    /// Wakes a thread for a batch that is ready; those that are busy will look before they rest.
    fn wake_worker(&mut self) -> Wake {
        if !self.has_spare_slot() {
            // Those that have been woken take what is ready, unless there is no place for them.
            let reclaimable = self.slots.next_reclaimable().filter(|_| self.slots.is_full());
            self.arm_timer(reclaimable)
        } else if self.idle > self.woken {
            self.woken += 1;
            Wake::Worker
        } else if self.timer.take().is_some() {
            Wake::Timer
        } else {
            Wake::None
        }
    }

    /// Makes sure that some thread, unless all are busy, comes when a batch has waited until then.
    fn arm_timer(&mut self, timeout: Option<Instant>) -> Wake {
        let reclaimable = if self.slots.is_full() { self.slots.next_reclaimable() } else { None };
        match (self.timer, timeout.map(|timeout| reclaimable.map_or(timeout, |reclaimable| reclaimable.max(timeout)))) {
            (Some((until, _)), Some(timeout)) if timeout < until => {
                self.timer = None;
                Wake::Timer
            }
            (None, Some(_)) if self.idle > self.woken => {
                self.woken += 1;
                Wake::Worker
            }
            _ => Wake::None,
        }
    }

    /// The next batch in turn, and its place.
    pub(super) fn take(&mut self, now: Instant) -> Option<Taken> {
        // What still waits at the end has no use for limits.
        if self.is_closing {
            return (0..self.turns.len()).find_map(|turn| self.take_from(self.turns[turn], now));
        }
        let needs_slot = |state: &Self| state.turns.iter().any(|&number| state.needs_slot(number, now));
        if self.slots.is_full() && !(needs_slot(self) && self.slots.reclaim_one(now)) {
            return None;
        }
        (0..self.turns.len()).find_map(|turn| {
            let number = self.turns[turn];
            if self.needs_slot(number, now) { self.take_from(number, now) } else { None }
        })
    }

    /// A batch of this queue, and its place.
    pub(super) fn take_from(&mut self, number: usize, now: Instant) -> Option<Taken> {
        let queue = &mut self.queues[number];
        let (batch, closed) = queue.waiting.take(now)?;
        let run = self.slots.acquire(&queue.owner, now);
        queue.note_length();
        let work = Work {
            batch,
            closed,
            options: Arc::clone(&queue.options),
            run: Arc::clone(&queue.run),
            statistics: Arc::clone(&queue.statistics),
            adaptive: queue.adaptive.clone(),
        };
        self.turns.retain(|&turn| turn != number);
        if !queue.waiting.is_empty() {
            self.turns.push_back(number);
        }
        Some((work, run, self.remove_if_done(number)))
    }

    /// Takes out a queue that is closed and empty, to be dropped outside the lock.
    pub(super) fn remove_if_done(&mut self, number: usize) -> Option<QueueState> {
        let waiting = &self.queues[number].waiting;
        (waiting.is_closing() && waiting.is_empty() && !self.is_closing).then(|| self.queues.remove(number))
    }

    /// Who has to come for what is left when somebody goes off with a batch, or does not come.
    pub(super) fn wake_for_remaining(&mut self, now: Instant) -> Wake {
        if self.turns.is_empty() {
            return Wake::None;
        }
        if self.turns.iter().any(|&number| self.needs_slot(number, now)) {
            return self.wake_worker();
        }
        let timeout = self.next_timeout();
        self.arm_timer(timeout)
    }

    fn next_timeout(&self) -> Option<Instant> {
        let queues = self.turns.iter().map(|&number| &self.queues[number]).filter(|queue| queue.leads.is_empty());
        let open = queues.filter(|queue| self.slots.admits(&queue.owner));
        open.filter_map(|queue| queue.waiting.next_timeout()).min()
    }

    /// When somebody has to look at the queues again, if nothing happens until then.
    pub(super) fn next_wakeup(&self, now: Instant) -> Option<Instant> {
        if !self.slots.is_full() {
            return self.next_timeout();
        }
        let needs_slot = self.turns.iter().any(|&number| self.needs_slot(number, now));
        let ready = if needs_slot { Some(now) } else { self.next_timeout() };
        ready.max(self.slots.next_reclaimable()).filter(|_| ready.is_some())
    }
}
