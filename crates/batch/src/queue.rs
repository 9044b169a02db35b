//! The waiting batches of one queue: which batch a request joins, and when a batch is ready.
//!
//! No threads, no locks and no clock: each call passes the time, so that tests control it. The rules are those of
//! TensorFlow's shared batch scheduler (`docs/spec/batching.md` §5 and §6), with three differences:
//!
//! - Requests that cannot share a batch go into separate batches, instead of failing each other.
//! - Among ready batches, the one with the earliest deadline goes first.
//! - An empty request counts as one row, instead of never being run.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use self::admission::Placement;
use super::adaptive::Adaptive;
use super::extent::Extent;
use super::low_priority::LowPriority;
use super::options::{BatchingOptions, MixedPriorityPolicy};
use super::task::Task;
use servable_model::tensor::Tensor;

/// The minimum time between two sweeps of a full queue for cancelled requests.
const SWEEP_INTERVAL: Duration = Duration::from_millis(1);

/// The reason for which a batch was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closed {
    /// The batch was full, or the next request did not fit.
    Size,
    /// The timeout of its first request had passed.
    Timeout,
    /// A thread was idle, and the queue is greedy.
    Idle,
    /// The queue was being closed.
    Shutdown,
}

impl Closed {
    /// The name on the metrics page and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Timeout => "timeout",
            Self::Idle => "idle_thread",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Requests that are run together.
pub(super) struct Batch {
    pub(super) tasks: Vec<Task>,
    /// The rows that count towards the size.
    pub(super) weight: usize,
    started: Instant,
    /// The earliest deadline of its requests.
    due: Instant,
    /// Whether a later batch of the same shapes was opened.
    is_closed: bool,
    /// One for each input, where requests are padded to a common shape.
    extents: Vec<Extent>,
    /// Whether it contains a piece of a request. Pieces that were padded differently could not be joined again.
    keeps_shape: bool,
}

/// The waiting batches of one queue.
pub(super) struct Waiting {
    options: Arc<BatchingOptions>,
    batches: VecDeque<Batch>,
    low: LowPriority,
    /// Decides sizes and timeouts, if the queue has a latency objective.
    adaptive: Option<Arc<Adaptive>>,
    /// The time of the last sweep for cancelled requests.
    last_sweep: Option<Instant>,
    is_closing: bool,
}

impl Waiting {
    pub(super) fn new(options: Arc<BatchingOptions>, adaptive: Option<Arc<Adaptive>>) -> Self {
        let (low, batches) = (LowPriority::new(&options), VecDeque::new());
        Self { options, batches, low, adaptive, last_sweep: None, is_closing: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.low.is_empty()
    }

    /// The numbers of waiting batches and of rows in them. All requests of low priority count as one batch.
    pub(super) fn length(&self) -> (usize, usize) {
        let low = usize::from(!self.low.is_empty());
        let weight: usize = self.batches.iter().map(|batch| batch.weight).sum();
        (self.batches.len() + low, weight + self.low.weight())
    }

    pub(super) fn is_closing(&self) -> bool {
        self.is_closing
    }

    /// Closes the queue. Every waiting batch is then ready.
    pub(super) fn close(&mut self) {
        self.is_closing = true;
    }

    /// Removes cancelled requests, to make room for others. Visits every request, at most once in [`SWEEP_INTERVAL`].
    pub(super) fn remove_cancelled(&mut self, now: Instant) -> Vec<Task> {
        if self.last_sweep.is_some_and(|last| now < last + SWEEP_INTERVAL) {
            return Vec::new();
        }
        self.last_sweep = Some(now);
        let mut cancelled = self.low.remove_cancelled(now);
        for batch in &mut self.batches {
            let (gone, rest) = std::mem::take(&mut batch.tasks).into_iter().partition(|task| task.is_cancelled(now));
            batch.tasks = rest;
            cancelled.extend::<Vec<Task>>(gone);
            batch.weight = batch.tasks.iter().map(Task::weight).sum();
        }
        self.batches.retain(|batch| !batch.tasks.is_empty());
        cancelled
    }

    /// Inserts an admitted task. Returns whether that opened a batch.
    pub(super) fn insert(&mut self, task: Task, placement: &Placement, now: Instant) -> bool {
        if let Some(adaptive) = &self.adaptive {
            adaptive.arrived(task.weight());
        }
        match *placement {
            Placement::Join(batch) => {
                self.batches[batch].add(task);
                false
            }
            Placement::Low => {
                let began = self.low.is_empty();
                self.low.insert(task, self.piece_size());
                began
            }
            Placement::Open(full) => {
                self.open(task, full, now);
                true
            }
            Placement::Spread { open, room, size } => {
                let mut pieces = task.split(room, size).into_iter();
                if let Some(open) = open.filter(|_| room > 0)
                    && let Some(piece) = pieces.next()
                {
                    self.batches[open].add(piece);
                }
                let mut last = open;
                for piece in pieces {
                    self.open(piece, last, now);
                    last = Some(self.batches.len() - 1);
                }
                true
            }
        }
    }

    /// Opens a batch, and closes the batch that was full for this task.
    fn open(&mut self, task: Task, full: Option<usize>, now: Instant) {
        if let Some(full) = full {
            self.batches[full].is_closed = true;
        }
        self.batches.push_back(self.batch_of(task, now));
    }

    fn batch_of(&self, task: Task, now: Instant) -> Batch {
        let (weight, due) = (task.weight(), task.due());
        let is_padded = self.options.pad_variable_length_inputs;
        let extents = if is_padded { task.inputs.iter().map(Extent::new).collect() } else { Vec::new() };
        let keeps_shape = task.is_piece();
        Batch { tasks: vec![task], weight, started: now, due, is_closed: false, extents, keeps_shape }
    }

    /// Why a batch is ready, whose first request arrived at `since`; `None` if it has to wait.
    fn reason(&self, is_full: bool, since: Instant, timeout: Duration, now: Instant) -> Option<Closed> {
        if is_full {
            Some(Closed::Size)
        } else if self.is_closing {
            Some(Closed::Shutdown)
        } else if timeout.is_zero() {
            Some(Closed::Idle)
        } else {
            (now >= since + timeout).then_some(Closed::Timeout)
        }
    }

    fn ready(&self, batch: &Batch, now: Instant) -> Option<Closed> {
        let weight = batch.weight + if self.merges() { self.low.weight() } else { 0 };
        let is_full = batch.is_closed || weight >= self.full_size();
        self.reason(is_full, self.since(batch), self.timeout(), now)
    }

    /// The rows at which a batch is full.
    fn full_size(&self) -> usize {
        let size = self.options.execution_size();
        self.adaptive.as_ref().map_or(size, |adaptive| adaptive.decision().target_size.min(size))
    }

    /// The rows of each piece of a request that is split.
    fn piece_size(&self) -> usize {
        let size = self.options.execution_size();
        match &self.adaptive {
            Some(adaptive) if self.options.enable_large_batch_splitting => adaptive.decision().piece_size.min(size),
            _ => size,
        }
    }

    /// How long a batch that is not full waits.
    fn timeout(&self) -> Duration {
        self.adaptive.as_ref().map_or_else(|| self.options.timeout(), |adaptive| adaptive.decision().wait)
    }

    /// Whether waiting requests of low priority count towards the size of other batches.
    fn merges(&self) -> bool {
        self.options.mixed_priority_batching_policy == MixedPriorityPolicy::Merge
    }

    /// The time from which the timeout of a batch counts.
    fn since(&self, batch: &Batch) -> Instant {
        let low = self.low.oldest().filter(|_| self.merges());
        low.map_or(batch.started, |oldest| oldest.min(batch.started))
    }

    /// Why a batch of low priority is ready; `None` if its requests have to wait.
    fn low_ready(&self, now: Instant) -> Option<Closed> {
        let oldest = self.low.oldest()?;
        if self.low.is_overdue(now) {
            return Some(Closed::Timeout);
        }
        let reason = self.reason(self.low.is_full(), oldest, self.low.timeout(), now);
        reason.filter(|_| self.batches.is_empty())
    }

    /// The number of batches that are ready.
    pub(super) fn ready_count(&self, now: Instant) -> usize {
        let ready = self.batches.iter().filter(|batch| self.ready(batch, now).is_some()).count();
        ready + usize::from(self.low_ready(now).is_some())
    }

    /// The next time at which a batch is ready without further requests; `None` if none waits.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let batches = self.batches.iter().map(|batch| self.since(batch) + self.timeout()).min();
        let alone = self.low.oldest().filter(|_| self.batches.is_empty()).map(|oldest| oldest + self.low.timeout());
        [batches, alone, self.low.overdue_at()].into_iter().flatten().min()
    }

    /// Takes the ready batch with the earliest deadline.
    pub(super) fn take(&mut self, now: Instant) -> Option<(Batch, Closed)> {
        if self.low.is_overdue(now) {
            return self.take_low(now);
        }
        let ready = self.batches.iter().enumerate().filter_map(|(index, batch)| Some((index, self.ready(batch, now)?)));
        let Some((index, closed)) = ready.min_by_key(|&(index, _)| self.batches[index].due) else {
            return self.take_low(now);
        };
        let mut batch = self.batches.remove(index)?;
        let target = match self.options.mixed_priority_batching_policy {
            MixedPriorityPolicy::PadToMaxBatchSize | MixedPriorityPolicy::Merge => self.full_size(),
            MixedPriorityPolicy::PadToNextAllowedSize => {
                self.options.padded_size(batch.weight).min(self.options.execution_size())
            }
            MixedPriorityPolicy::Isolation => 0,
        };
        self.fill_up(&mut batch, target);
        Some((batch, closed))
    }

    /// Takes a batch of requests of low priority, if one is ready.
    fn take_low(&mut self, now: Instant) -> Option<(Batch, Closed)> {
        let closed = self.low_ready(now)?;
        let (task, room) = self.low.take_first()?;
        let mut batch = self.batch_of(task, now);
        let size = (batch.weight + room).min(self.full_size());
        self.fill_up(&mut batch, size);
        Some((batch, closed))
    }

    /// Adds requests of low priority to a batch, up to `size` rows.
    fn fill_up(&mut self, batch: &mut Batch, size: usize) {
        // Each request may change the shape of a padded batch, and so decide which others fit. They are added singly.
        while !self.low.is_empty() && batch.weight < size {
            let is_padded = self.options.pad_variable_length_inputs;
            let mut is_first = true;
            let options = &self.options;
            let fits = |task: &Task| can_share(options, batch, task) && (!is_padded || std::mem::take(&mut is_first));
            let tasks = self.low.fill(size - batch.weight, fits);
            if tasks.is_empty() {
                return;
            }
            for task in tasks {
                batch.add(task);
            }
            if !is_padded {
                return;
            }
        }
    }
}

/// Whether the inputs of a task can be concatenated with those of a batch.
fn can_share(options: &BatchingOptions, batch: &Batch, task: &Task) -> bool {
    if options.pad_variable_length_inputs {
        return batch.extents.iter().zip(&task.inputs).all(|(extent, input)| {
            let is_piece_kept = !task.is_piece() || extent.is_shape_of(input);
            is_piece_kept && if batch.keeps_shape { extent.covers(input) } else { extent.can_include(input) }
        });
    }
    let same = |a: &Tensor, b: &Tensor| a.dtype() == b.dtype() && a.shape()[1..] == b.shape()[1..];
    batch.tasks[0].inputs.iter().zip(&task.inputs).all(|(a, b)| same(a, b))
}

impl Batch {
    fn add(&mut self, task: Task) {
        self.weight += task.weight();
        self.due = self.due.min(task.due());
        self.keeps_shape |= task.is_piece();
        for (extent, input) in self.extents.iter_mut().zip(&task.inputs) {
            extent.include(input);
        }
        self.tasks.push(task);
    }
}

mod admission;
#[cfg(test)]
mod tests;
