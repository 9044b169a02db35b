//! The state under the lock of the pool: queues in round-robin order, slots, and which thread each change has to wake.
//!
//! Nothing here blocks, wakes a thread or reads a clock.

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

/// The time in which a caller with the lead has to use it. The caller first runs the tasks that are ready on its
/// thread. After this time the thread counts as blocked, and the batch goes to another. Tests block each other, and get
/// longer.
const LEAD_TIMEOUT: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 1 });

/// The state of one queue.
pub(super) struct QueueState {
    pub(super) waiting: Waiting,
    pub(super) owner: Arc<Owner>,
    /// The times at which leads were given that have not been consumed.
    leads: Vec<Instant>,
    options: Arc<BatchingOptions>,
    run: Arc<dyn RunBatch>,
    statistics: Arc<Statistics>,
    pub(super) adaptive: Option<Arc<Adaptive>>,
}

/// A batch to be run, the number of its run, and its queue if that was closed and is now empty.
pub(super) type Taken = (Work, usize, Option<QueueState>);

/// The thread that a change has to wake.
#[derive(Clone, Copy)]
pub(super) enum Wake {
    None,
    /// An idle worker.
    Worker,
    /// The thread that is the timer.
    Timer,
}

/// Everything that the lock guards.
pub(super) struct State {
    pub(super) queues: Slab<QueueState>,
    pub(super) slots: BatchSlots,
    /// The numbers of threads that exist, that were ever started, and that run batches.
    pub(super) threads: usize,
    pub(super) started: usize,
    pub(super) working: usize,
    /// The queues that are not empty, in round-robin order.
    pub(super) turns: VecDeque<usize>,
    /// The number of idle workers, the timer excluded, and of those among them that were woken and do not run yet.
    pub(super) idle: usize,
    pub(super) woken: usize,
    /// The armed timer, if any: the time at which it fires, and its generation.
    pub(super) timer: Option<(Instant, u64)>,
    /// The generation of the last timer. A thread recognises by it whether it is still the timer.
    pub(super) generation: u64,
    /// Cancelled requests, to be dropped outside the lock.
    pub(super) cancelled: Vec<(Task, Arc<Statistics>)>,
    pub(super) is_closing: bool,
}

impl QueueState {
    /// Whether more batches are ready than callers hold leads.
    fn is_due(&self, now: Instant) -> bool {
        let led = self.leads.iter().filter(|&&since| now <= since + LEAD_TIMEOUT).count();
        self.waiting.ready_count(now) > led
    }

    /// Removes the lead that was given at this time.
    pub(super) fn consume_lead(&mut self, since: Instant) {
        if let Some(lead) = self.leads.iter().position(|&lead| lead == since) {
            self.leads.swap_remove(lead);
        }
    }

    /// Updates the length of the queue in its statistics.
    fn note_length(&self) {
        let (batches, rows) = self.waiting.length();
        self.statistics.waits(batches, rows);
    }
}

impl State {
    /// A state without queues, with this number of slots and of threads.
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

    /// Adds a queue. Returns its number.
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

    /// Puts a task into a queue, or returns it with the error. Returns whether its caller got the lead.
    ///
    /// Only a caller that `can_lead` gets it.
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
            // Where the owner is at its limit, the thread that ends one of its batches takes the next.
            let is_open = self.slots.admits(&queue.owner);
            return Ok((if is_open { self.wake_worker() } else { Wake::None }, false));
        }
        // A caller with the lead, or the timer of a batch that exists already, takes care of this task.
        let timeout = if began && queue.leads.is_empty() { queue.waiting.next_timeout() } else { None };
        Ok((self.arm_timer(timeout), false))
    }

    /// Whether a slot is free beyond those that woken threads will take.
    pub(super) fn has_spare_slot(&self) -> bool {
        self.slots.taken() + self.woken < self.slots.total()
    }

    /// Whether a batch of this queue lacks only a slot.
    fn needs_slot(&self, number: usize, now: Instant) -> bool {
        let queue = &self.queues[number];
        self.slots.admits(&queue.owner) && queue.is_due(now)
    }

    /// Wakes a thread for a batch that is ready. A busy thread checks the queues before it waits.
    fn wake_worker(&mut self) -> Wake {
        if !self.has_spare_slot() {
            // The threads that were woken take the ready batches. If all slots are taken, the timer reclaims one.
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

    /// Arms the timer for this time, unless it fires earlier or all threads are busy.
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

    /// Takes the next batch in round-robin order, with a slot.
    pub(super) fn take(&mut self, now: Instant) -> Option<Taken> {
        // At shutdown, the remaining batches run without limits.
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

    /// Takes a batch of this queue, with a slot.
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

    /// Removes a queue that is closed and empty. The caller drops it outside the lock.
    pub(super) fn remove_if_done(&mut self, number: usize) -> Option<QueueState> {
        let waiting = &self.queues[number].waiting;
        (waiting.is_closing() && waiting.is_empty() && !self.is_closing).then(|| self.queues.remove(number))
    }

    /// The thread to wake for the remaining batches, after a thread has taken a batch or declined the lead.
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

    /// The time at which the timer has to fire, if nothing changes until then.
    pub(super) fn next_wakeup(&self, now: Instant) -> Option<Instant> {
        if !self.slots.is_full() {
            return self.next_timeout();
        }
        let needs_slot = self.turns.iter().any(|&number| self.needs_slot(number, now));
        let ready = if needs_slot { Some(now) } else { self.next_timeout() };
        ready.max(self.slots.next_reclaimable()).filter(|_| ready.is_some())
    }
}
