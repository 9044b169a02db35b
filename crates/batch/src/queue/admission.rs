//! Admission: whether a queue accepts a request, and which batch the request joins.

use super::{Waiting, can_share};
use crate::task::Task;
use servable_model::call::Priority;
use servable_model::error::{Code, Result, ServingError};

/// The largest number of rows in a request, whatever the options say. A tensor without elements may claim any number,
/// and sums of rows must not overflow.
const MOST_ROWS: usize = 1 << 32;

/// The batch that an admitted task joins.
pub(crate) enum Placement {
    /// An open batch.
    Join(usize),
    /// A new batch. The given batch, if any, is full for the task and will be closed.
    Open(Option<usize>),
    /// The open batch for the first rows, and new batches for the others.
    Spread {
        /// The open batch.
        open: Option<usize>,
        /// The rows that fit into the open batch.
        room: usize,
        /// The rows of a new batch.
        size: usize,
    },
    /// The requests of low priority.
    Low,
}

impl Waiting {
    /// Admits a task, without inserting it.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if the task is larger than any batch, `UNAVAILABLE` if the queue is full.
    pub(crate) fn admit(&self, task: &Task) -> Result<Placement> {
        let options = &self.options;
        let (weight, limit) = (task.weight(), options.max_batch_size.min(MOST_ROWS));
        if weight > limit {
            let text = format!("Task size {weight} is larger than maximum input batch size {limit}");
            return Err(ServingError::invalid_argument(text));
        }
        if task.priority == Priority::Low {
            return self.low.admit(task, options.enable_large_batch_splitting).map(|()| Placement::Low);
        }
        if let Some(adaptive) = &self.adaptive {
            let waiting: usize = self.batches.iter().map(|batch| batch.weight).sum();
            let most = adaptive.decision().max_waiting_rows;
            // A task that finds the queue empty is served, however late.
            if waiting > 0 && waiting + weight > most {
                return Err(ServingError::new(
                    Code::Unavailable,
                    format!(
                        "The batch scheduling queue to which this task was submitted is full; currently {waiting} rows \
                         wait, and no more than {most} can be answered within {} ms",
                        adaptive.objective.as_secs_f64() * 1e3
                    ),
                ));
            }
        }
        let open = self.open_for(task);
        let filled = open.map_or(0, |open| self.batches[open].weight);
        if options.enable_large_batch_splitting {
            return self.admit_in_pieces(task, open, filled);
        }
        match open {
            Some(open) if filled + weight <= self.full_size() => Ok(Placement::Join(open)),
            // With a latency objective, rows are limited instead of batches: the size of a full batch varies.
            _ if self.adaptive.is_none() && self.batches.len() >= options.max_enqueued_batches => {
                Err(ServingError::new(
                    Code::Unavailable,
                    format!(
                        "The batch scheduling queue to which this task was submitted is full; currently {} batches \
                     enqueued and max_enqueued_batches is {}",
                        self.batches.len(),
                        options.max_enqueued_batches
                    ),
                ))
            }
            _ => Ok(Placement::Open(open)),
        }
    }

    fn admit_in_pieces(&self, task: &Task, open: Option<usize>, filled: usize) -> Result<Placement> {
        let (weight, size, most) = (task.weight(), self.options.execution_size(), self.options.max_enqueued_batches);
        let room = open.map_or(0, |open| self.room_for(open, task));
        let capacity = most.saturating_sub(self.batches.len()).saturating_mul(size).saturating_add(room);
        // With a latency objective, the limit on rows was checked above. There may be more batches, which are smaller.
        if weight > capacity && (self.adaptive.is_none() || self.batches.is_empty()) {
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
        let size = self.piece_size();
        Ok(match open {
            Some(open) if weight <= room => Placement::Join(open),
            _ if weight <= size && room == 0 => Placement::Open(open),
            _ => Placement::Spread { open, room, size },
        })
    }

    /// The rows that fit into a batch; 0 if the task has to be split and its pieces would be padded differently.
    fn room_for(&self, open: usize, task: &Task) -> usize {
        let batch = &self.batches[open];
        let room = self.full_size().saturating_sub(batch.weight);
        let fits_in_pieces = batch.extents.iter().zip(&task.inputs).all(|(extent, input)| extent.is_shape_of(input));
        if task.weight() <= room || fits_in_pieces { room } else { 0 }
    }

    /// The open batch whose shapes a task can share.
    fn open_for(&self, task: &Task) -> Option<usize> {
        self.batches.iter().rposition(|batch| !batch.is_closed && can_share(&self.options, batch, task))
    }
}
