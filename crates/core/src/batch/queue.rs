//! The batches of one queue that wait for a thread: who joins which, and when one may be taken.
//!
//! No threads, no locks and no clock: the time comes with each call, so that tests turn it by hand. The rules are those of
//! TensorFlow's shared batch scheduler (`spec/batching.md` §5 and §6), with three differences: requests that cannot
//! share a batch are in batches of their own instead of failing each other, among batches that may be taken the one
//! with the earliest deadline goes first, and an empty request counts as one row instead of waiting for ever.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::extent::Extent;
use super::options::BatchingOptions;
use super::task::Task;
use crate::error::{Code, Result, ServingError};
use crate::tensor::Tensor;

/// Requests that want an answer later than this are served as if they wanted it by then, so that they get their turn
/// however many more urgent ones come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a batch was taken when it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closed {
    /// It was full, or the next request did not fit.
    Size,
    /// Its first request had waited for the time-out.
    Timeout,
    /// A thread was free, and the queue is greedy.
    Idle,
    /// The queue is being closed.
    Shutdown,
}

impl Closed {
    /// The word for it on pages.
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
    /// The rows that count towards its size.
    pub(super) weight: usize,
    started: Instant,
    /// Until when its most urgent request wants to be served.
    due: Instant,
    /// Whether a later batch of its kind has been begun.
    is_closed: bool,
    /// One for each input, where requests are padded to a common shape.
    extents: Vec<Extent>,
}

/// Where an admitted task goes.
pub(super) enum Place {
    /// Into this batch.
    Join(usize),
    /// Into a batch of its own; this one is full for it.
    Open(Option<usize>),
    /// Into this batch, as far as it has room, and into new ones.
    Spread(Option<usize>),
}

/// The waiting batches of one queue.
pub(super) struct Waiting {
    options: Arc<BatchingOptions>,
    batches: VecDeque<Batch>,
    /// The rows of all of them that count towards their sizes.
    weight: usize,
    is_closing: bool,
}

impl Waiting {
    pub(super) fn new(options: Arc<BatchingOptions>) -> Self {
        Self { options, batches: VecDeque::new(), weight: 0, is_closing: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// How many batches wait, and how many rows are in them.
    pub(super) fn length(&self) -> (usize, usize) {
        (self.batches.len(), self.weight)
    }

    pub(super) fn is_closing(&self) -> bool {
        self.is_closing
    }

    /// Makes every batch ready at once.
    pub(super) fn close(&mut self) {
        self.is_closing = true;
    }

    /// Where a task would go.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if it is larger than any batch, `UNAVAILABLE` if the queue is full.
    pub(super) fn admit(&self, task: &Task) -> Result<Place> {
        let options = &self.options;
        let (weight, limit) = (task.weight(), options.max_batch_size);
        if weight > limit {
            let text = format!("Task size {weight} is larger than maximum input batch size {limit}");
            return Err(ServingError::invalid_argument(text));
        }
        let open = self.open_for(task);
        let filled = open.map_or(0, |open| self.batches[open].weight);
        if options.enable_large_batch_splitting {
            return self.admit_in_pieces(weight, open, filled);
        }
        match open {
            Some(open) if filled + weight <= limit => Ok(Place::Join(open)),
            _ if self.batches.len() >= options.max_enqueued_batches => Err(ServingError::new(
                Code::Unavailable,
                format!(
                    "The batch scheduling queue to which this task was submitted is full; currently {} batches \
                     enqueued and max_enqueued_batches is {}",
                    self.batches.len(),
                    options.max_enqueued_batches
                ),
            )),
            _ => Ok(Place::Open(open)),
        }
    }

    fn admit_in_pieces(&self, weight: usize, open: Option<usize>, filled: usize) -> Result<Place> {
        let (size, most) = (self.options.execution_size(), self.options.max_enqueued_batches);
        let room = if open.is_some() { size - filled } else { 0 };
        let capacity = most.saturating_sub(self.batches.len()).saturating_mul(size).saturating_add(room);
        if weight > capacity {
            return Err(ServingError::new(
                Code::Unavailable,
                format!(
                    "The batch scheduling queue to which this task was submitted is full; task size is {weight} but \
                     scheduling capacity is only {capacity} (num_enqueued_batches={}, max_enqueued_batches={most}, \
                     open_batch_size={filled}, max_execution_batch_size={size})",
                    self.batches.len().max(1),
                ),
            ));
        }
        Ok(match open {
            Some(open) if weight <= room => Place::Join(open),
            _ if weight <= size && room == 0 => Place::Open(open),
            _ => Place::Spread(open),
        })
    }

    /// The batch that requests of this kind are put into.
    fn open_for(&self, task: &Task) -> Option<usize> {
        self.batches.iter().rposition(|batch| !batch.is_closed && self.can_share(batch, task))
    }

    /// Whether the inputs of a task can be joined with those of a batch.
    fn can_share(&self, batch: &Batch, task: &Task) -> bool {
        if self.options.pad_variable_length_inputs {
            return batch.extents.iter().zip(&task.inputs).all(|(extent, input)| extent.can_include(input));
        }
        let same = |a: &Tensor, b: &Tensor| a.dtype() == b.dtype() && a.shape()[1..] == b.shape()[1..];
        batch.tasks[0].inputs.iter().zip(&task.inputs).all(|(a, b)| same(a, b))
    }

    /// Takes in an admitted task; says whether it has begun a batch.
    pub(super) fn insert(&mut self, task: Task, place: &Place, now: Instant) -> bool {
        self.weight += task.weight();
        match *place {
            Place::Join(batch) => {
                self.batches[batch].add(task);
                false
            }
            Place::Open(full) => {
                self.open(task, full, now);
                true
            }
            Place::Spread(open) => {
                let size = self.options.execution_size();
                let room = open.map_or(0, |open| size - self.batches[open].weight);
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

    /// Begins a batch, for which another one of its kind is closed.
    fn open(&mut self, task: Task, full: Option<usize>, now: Instant) {
        if let Some(full) = full {
            self.batches[full].is_closed = true;
        }
        let (weight, due) = (task.weight(), due(&task));
        let is_padded = self.options.pad_variable_length_inputs;
        let extents = if is_padded { task.inputs.iter().map(Extent::new).collect() } else { Vec::new() };
        self.batches.push_back(Batch { tasks: vec![task], weight, started: now, due, is_closed: false, extents });
    }

    fn ready(&self, batch: &Batch, now: Instant) -> Option<Closed> {
        if batch.is_closed || batch.weight >= self.options.execution_size() {
            Some(Closed::Size)
        } else if self.is_closing {
            Some(Closed::Shutdown)
        } else if self.options.batch_timeout_micros == 0 {
            Some(Closed::Idle)
        } else {
            (now >= batch.started + self.options.timeout()).then_some(Closed::Timeout)
        }
    }

    /// Whether a thread would get a batch now.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        self.batches.iter().any(|batch| self.ready(batch, now).is_some())
    }

    /// When a batch will be ready that nothing more is put into; `None` if there is none.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.batches.iter().map(|batch| batch.started + self.options.timeout()).min()
    }

    /// The most urgent of the batches that are ready, for a free thread.
    pub(super) fn take(&mut self, now: Instant) -> Option<(Batch, Closed)> {
        let ready = self.batches.iter().enumerate().filter_map(|(index, batch)| Some((index, self.ready(batch, now)?)));
        let (index, closed) = ready.min_by_key(|&(index, _)| self.batches[index].due)?;
        let batch = self.batches.remove(index)?;
        self.weight -= batch.weight;
        Some((batch, closed))
    }
}

impl Batch {
    fn add(&mut self, task: Task) {
        self.weight += task.weight();
        self.due = self.due.min(due(&task));
        for (extent, input) in self.extents.iter_mut().zip(&task.inputs) {
            extent.include(input);
        }
        self.tasks.push(task);
    }
}

fn due(task: &Task) -> Instant {
    let patient = task.arrived + PATIENCE;
    task.deadline.map_or(patient, |deadline| deadline.min(patient))
}
#[cfg(test)]
mod tests;
