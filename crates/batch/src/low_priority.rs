//! The waiting requests of low priority of one queue. They fill up other batches, or form batches when no other waits.
//!
//! The rules are those of TensorFlow's shared batch scheduler (`docs/spec/batching.md` §19), with two differences. The
//! request with the earliest deadline goes first. Ageing prevents starvation, see [`LowPriority::is_overdue`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::options::BatchingOptions;
use super::task::Task;
use servable_model::error::{Code, Result, ServingError};

/// The waiting requests, by deadline.
pub(super) struct LowPriority {
    tasks: VecDeque<Task>,
    weight: usize,
    /// The earliest arrival.
    oldest: Option<Instant>,
    /// The limits of a batch of low priority: its rows, its timeout, and how many may wait.
    size: usize,
    timeout: Duration,
    max_batches: usize,
}

impl LowPriority {
    pub(super) fn new(options: &BatchingOptions) -> Self {
        let low = &options.low_priority;
        Self {
            tasks: VecDeque::new(),
            weight: 0,
            oldest: None,
            size: low.max_batch_size.unwrap_or(options.execution_size()).min(options.execution_size()),
            timeout: Duration::from_micros(low.batch_timeout_micros.unwrap_or(options.batch_timeout_micros)),
            max_batches: low.max_enqueued_batches.unwrap_or(options.max_enqueued_batches),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// The number of waiting rows.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    pub(super) fn oldest(&self) -> Option<Instant> {
        self.oldest
    }

    /// How long a batch of low priority that is not full waits.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether the waiting requests fill a batch.
    pub(super) fn is_full(&self) -> bool {
        self.weight >= self.size
    }

    /// The time at which the first request becomes overdue.
    pub(super) fn overdue_at(&self) -> Option<Instant> {
        self.tasks.front().map(Task::due)
    }

    /// Whether a request has reached its explicit or implied deadline. It then goes before requests of high priority.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.overdue_at().is_some_and(|end| end <= now)
    }

    /// Checks that there is room for a task.
    ///
    /// # Errors
    ///
    /// `UNAVAILABLE` if there is not, with the text of TensorFlow.
    pub(super) fn admit(&self, task: &Task, can_split: bool) -> Result<()> {
        let (weight, size, most) = (task.weight(), self.size, self.max_batches);
        if weight > size && !can_split {
            return Err(ServingError::new(
                Code::Unavailable,
                format!(
                    "The low priority task queue to which this task was submitted has max_execution_batch_size={size} \
                     and the task size is {weight}"
                ),
            ));
        }
        if self.weight + weight > most.saturating_mul(size) {
            return Err(ServingError::new(
                Code::Unavailable,
                format!(
                    "The low priority task queue to which this task was submitted does not have the capacity to handle \
                     this task; currently the low priority queue has {} tasks enqueued and the submitted task size is \
                     {weight} while max_enqueued_batches={most} and max_execution_batch_size={size}",
                    self.weight
                ),
            ));
        }
        Ok(())
    }

    /// Inserts an admitted task, in pieces of at most `most` rows.
    pub(super) fn insert(&mut self, task: Task, most: usize) {
        let size = self.size.min(most);
        if task.rows > size {
            task.split(0, size).into_iter().for_each(|piece| self.insert_piece(piece));
        } else {
            self.insert_piece(task);
        }
    }

    fn insert_piece(&mut self, task: Task) {
        self.weight += task.weight();
        self.oldest = Some(self.oldest.map_or(task.arrived, |oldest| oldest.min(task.arrived)));
        let index = self.tasks.partition_point(|other| other.due() <= task.due());
        self.tasks.insert(index, task);
    }

    /// Takes requests for a batch in the order of their deadlines, as far as they fit into `room` rows and `fits` is
    /// true.
    pub(super) fn fill(&mut self, mut room: usize, mut fits: impl FnMut(&Task) -> bool) -> Vec<Task> {
        let mut taken = Vec::new();
        let mut index = 0;
        while room > 0 && index < self.tasks.len() {
            let task = &self.tasks[index];
            if task.weight() <= room && fits(task) {
                room -= task.weight();
                taken.extend(self.tasks.remove(index));
            } else {
                index += 1;
            }
        }
        self.took(&taken);
        taken
    }

    /// Removes cancelled requests.
    pub(super) fn remove_cancelled(&mut self, now: Instant) -> Vec<Task> {
        let (cancelled, rest) = std::mem::take(&mut self.tasks).into_iter().partition(|task| task.is_cancelled(now));
        self.tasks = rest;
        let cancelled = Vec::<Task>::from(cancelled);
        self.took(&cancelled);
        cancelled
    }

    /// Takes the first request, to open a batch with it. Returns also how many rows may join it.
    pub(super) fn take_first(&mut self) -> Option<(Task, usize)> {
        let task = self.tasks.pop_front()?;
        self.took(std::slice::from_ref(&task));
        let room = self.size.saturating_sub(task.weight());
        Some((task, room))
    }

    fn took(&mut self, tasks: &[Task]) {
        self.weight -= tasks.iter().map(Task::weight).sum::<usize>();
        if tasks.iter().any(|task| Some(task.arrived) == self.oldest) {
            self.oldest = self.tasks.iter().map(|task| task.arrived).min();
        }
    }
}
