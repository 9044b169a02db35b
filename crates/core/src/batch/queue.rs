//! The batches of one queue that wait for a thread: who joins which, and when one may be taken.
//!
//! No threads, no locks and no clock: the time comes with each call, so that tests turn it by hand. The rules are those of
//! TensorFlow's shared batch scheduler (`spec/batching.md` §5 and §6), with three differences: requests that cannot
//! share a batch are in batches of their own instead of failing each other, among batches that may be taken the one
//! with the earliest deadline goes first, and an empty request counts as one row instead of waiting for ever.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::options::BatchingOptions;
use super::task::Task;
use crate::error::{Code, Result, ServingError};
use crate::tensor::{DType, Tensor};

/// Requests that want an answer later than this are served as if they wanted it by then, so that they get their turn
/// however many more urgent ones come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Padding may make a tensor of a batch this many times as large as its requests, or [`PADDED_ELEMENTS`] large.
const PADDED_TIMES: usize = 8;
const PADDED_ELEMENTS: usize = 1 << 20;

/// Why a batch was taken when it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    is_closing: bool,
}

impl Waiting {
    pub(super) fn new(options: Arc<BatchingOptions>) -> Self {
        Self { options, batches: VecDeque::new(), is_closing: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
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
        self.batches.remove(index).map(|batch| (batch, closed))
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

/// What the tensors of a batch for one input become when they are padded to a common shape.
struct Extent {
    dtype: DType,
    rows: usize,
    /// The dimensions beyond the first, each the largest of all tensors.
    inner: Vec<i64>,
    /// How many elements the tensors have without padding.
    elements: usize,
}

impl Extent {
    fn new(tensor: &Tensor) -> Self {
        let (rows, inner) = (tensor.shape()[0] as usize, tensor.shape()[1..].to_vec());
        Self { dtype: tensor.dtype(), rows, inner, elements: tensor.len() }
    }

    fn widened(&self, tensor: &Tensor) -> impl Iterator<Item = i64> {
        self.inner.iter().zip(&tensor.shape()[1..]).map(|(&a, &b)| a.max(b))
    }

    /// Whether a tensor can be padded to one shape with these, and without growing out of proportion.
    fn can_include(&self, tensor: &Tensor) -> bool {
        let inner = &tensor.shape()[1..];
        if self.dtype != tensor.dtype() || self.inner.len() != inner.len() {
            return false;
        }
        // There is no first element to fill an empty tensor with.
        if self.inner == *inner || self.inner.contains(&0) || inner.contains(&0) {
            return self.inner == *inner;
        }
        let rows = self.rows + tensor.shape()[0] as usize;
        let padded = self.widened(tensor).fold(rows, |count, size| count.saturating_mul(size as usize));
        padded <= PADDED_ELEMENTS || padded / PADDED_TIMES <= self.elements + tensor.len()
    }

    fn include(&mut self, tensor: &Tensor) {
        self.inner = self.widened(tensor).collect();
        self.rows += tensor.shape()[0] as usize;
        self.elements += tensor.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::task::Ticket;
    use crate::batch::testing::{numbers, text};
    use crate::call::Call;

    /// A queue with a clock that is turned by hand, in milliseconds.
    struct Bench {
        waiting: Waiting,
        start: Instant,
        tickets: Vec<Ticket>,
    }

    impl Bench {
        fn new(options: BatchingOptions) -> Self {
            options.check().expect("options that fit");
            Self { waiting: Waiting::new(Arc::new(options)), start: Instant::now(), tickets: Vec::new() }
        }

        fn at(&self, milliseconds: u64) -> Instant {
            self.start + Duration::from_millis(milliseconds)
        }

        fn put(&mut self, milliseconds: u64, input: Tensor, deadline: Option<u64>) -> Result<(), String> {
            let (now, call) = (self.at(milliseconds), Call::until(deadline.map(|deadline| self.at(deadline))));
            let (task, ticket) = Task::new(vec![input], call, now).expect("an input with rows");
            self.tickets.push(ticket);
            let place = self.waiting.admit(&task).map_err(|error| error.to_string())?;
            self.waiting.insert(task, &place, now);
            Ok(())
        }

        /// Puts in a request of this many rows, all of them `name`.
        fn rows(&mut self, milliseconds: u64, name: i64, rows: i64) -> Result<(), String> {
            self.put(milliseconds, numbers(&[rows], &vec![name; rows as usize]), None)
        }

        /// What a free thread gets: the requests of the batch.
        fn take(&mut self, milliseconds: u64) -> Option<(String, Closed)> {
            let now = self.at(milliseconds);
            let is_ready = self.waiting.is_ready(now);
            let taken = self.waiting.take(now);
            assert_eq!(is_ready, taken.is_some());
            let (batch, closed) = taken?;
            let tasks: Vec<String> = batch.tasks.iter().map(|task| text(&task.inputs[0])).collect();
            Some((tasks.join(", "), closed))
        }
    }

    fn small() -> BatchingOptions {
        BatchingOptions {
            max_batch_size: 4,
            batch_timeout_micros: 10_000,
            max_enqueued_batches: 2,
            ..BatchingOptions::default()
        }
    }

    #[test]
    fn requests_are_taken_in_and_out_as_in_the_worked_example() {
        let mut bench = Bench::new(small());
        assert_eq!(bench.rows(0, 1, 3), Ok(()));
        assert_eq!(bench.waiting.next_timeout(), Some(bench.at(10)));
        assert_eq!(bench.take(0), None);
        assert_eq!(bench.rows(1, 2, 2), Ok(()));
        assert_eq!(bench.take(1), Some(("[3] 1 1 1".to_owned(), Closed::Size)));
        assert_eq!(bench.take(1), None);
        assert_eq!(bench.rows(2, 3, 2), Ok(()));
        assert_eq!(bench.rows(3, 4, 1), Ok(()));
        assert_eq!(bench.rows(4, 5, 3), Ok(()));
        assert_eq!(
            bench.rows(5, 6, 1),
            Err("UNAVAILABLE: The batch scheduling queue to which this task was submitted is full; currently 2 batches \
                 enqueued and max_enqueued_batches is 2"
                .to_owned())
        );
        assert_eq!(
            bench.rows(5, 7, 5),
            Err("INVALID_ARGUMENT: Task size 5 is larger than maximum input batch size 4".to_owned())
        );
        assert_eq!(bench.take(5), Some(("[2] 2 2, [2] 3 3".to_owned(), Closed::Size)));
        assert_eq!(bench.take(5), Some(("[1] 4, [3] 5 5 5".to_owned(), Closed::Size)), "full, and so ready at once");
        assert!(bench.waiting.is_empty());
    }

    #[test]
    fn a_batch_that_is_not_full_waits_for_the_timeout_of_its_first_request() {
        let mut bench = Bench::new(small());
        bench.rows(0, 1, 1).expect("there is room");
        bench.rows(9, 2, 1).expect("there is room");
        assert_eq!(bench.take(9), None);
        assert_eq!(bench.take(10), Some(("[1] 1, [1] 2".to_owned(), Closed::Timeout)));
        assert_eq!(bench.waiting.next_timeout(), None);
    }

    #[test]
    fn a_greedy_queue_gives_what_is_there() {
        let mut bench = Bench::new(BatchingOptions { batch_timeout_micros: 0, ..small() });
        bench.rows(0, 1, 1).expect("there is room");
        assert_eq!(bench.take(0), Some(("[1] 1".to_owned(), Closed::Idle)));
    }

    #[test]
    fn closing_makes_every_batch_ready() {
        let mut bench = Bench::new(small());
        bench.rows(0, 1, 1).expect("there is room");
        bench.waiting.close();
        assert_eq!(bench.take(0), Some(("[1] 1".to_owned(), Closed::Shutdown)));
    }

    #[test]
    fn empty_requests_are_taken_with_others_and_alone() {
        let mut bench = Bench::new(small());
        bench.rows(0, 1, 0).expect("there is room");
        assert_eq!(bench.take(10), Some(("[0] ".to_owned(), Closed::Timeout)));
    }

    #[test]
    fn requests_of_different_shapes_are_never_in_one_batch() {
        let mut bench = Bench::new(small());
        let put = |bench: &mut Bench, shape: &[i64]| {
            let count = shape.iter().product::<i64>() as usize;
            bench.put(0, numbers(shape, &vec![shape[1]; count]), None)
        };
        assert_eq!(put(&mut bench, &[1, 1]), Ok(()));
        assert_eq!(put(&mut bench, &[1, 2]), Ok(()));
        assert_eq!(put(&mut bench, &[2, 1]), Ok(()));
        assert!(put(&mut bench, &[1, 3]).is_err_and(|error| error.contains("is full; currently 2 batches")));
        assert_eq!(bench.take(10), Some(("[1, 1] 1, [2, 1] 1 1".to_owned(), Closed::Timeout)));
        assert_eq!(bench.take(10), Some(("[1, 2] 2 2".to_owned(), Closed::Timeout)));
    }

    #[test]
    fn padding_lets_shapes_of_one_rank_share_a_batch() {
        let mut bench = Bench::new(BatchingOptions {
            pad_variable_length_inputs: true,
            max_enqueued_batches: 5,
            max_batch_size: 10_000,
            ..small()
        });
        let put = |bench: &mut Bench, shape: &[i64]| {
            bench.put(0, numbers(shape, &vec![0; shape.iter().product::<i64>() as usize]), None).expect("room");
        };
        let sizes = |bench: &Bench| bench.waiting.batches.iter().map(|batch| batch.tasks.len()).collect::<Vec<_>>();
        put(&mut bench, &[1, 3]);
        put(&mut bench, &[2, 2]);
        put(&mut bench, &[1, 300]);
        assert_eq!(sizes(&bench), [3]);
        put(&mut bench, &[1, 3, 1]);
        assert_eq!(sizes(&bench), [3, 1], "another rank");
        put(&mut bench, &[1, 0]);
        put(&mut bench, &[2, 0]);
        assert_eq!(sizes(&bench), [3, 1, 2], "nothing to fill it with");
        put(&mut bench, &[9000, 1]);
        assert_eq!(sizes(&bench), [3, 1, 2, 1], "300 times as many elements as were sent");
    }

    #[test]
    fn the_batch_with_the_earliest_deadline_goes_first() {
        let mut bench = Bench::new(BatchingOptions { max_batch_size: 2, max_enqueued_batches: 4, ..small() });
        let mut put = |name: i64, deadline| bench.put(0, numbers(&[1], &[name]), deadline).expect("there is room");
        for (name, deadline) in [(1, None), (2, Some(900)), (3, None), (4, Some(100)), (5, Some(200_000)), (6, None)] {
            put(name, deadline);
        }
        assert_eq!(bench.take(0), Some(("[1] 3, [1] 4".to_owned(), Closed::Size)));
        assert_eq!(bench.take(0), Some(("[1] 1, [1] 2".to_owned(), Closed::Size)));
        assert_eq!(bench.take(0), Some(("[1] 5, [1] 6".to_owned(), Closed::Size)));
    }

    #[test]
    fn large_requests_are_spread_over_batches() {
        let mut bench = Bench::new(BatchingOptions {
            enable_large_batch_splitting: true,
            max_batch_size: 16,
            max_execution_batch_size: Some(4),
            max_enqueued_batches: 3,
            ..small()
        });
        assert_eq!(
            bench.put(0, numbers(&[13], &[0; 13]), None),
            Err("UNAVAILABLE: The batch scheduling queue to which this task was submitted is full; task size is 13 but \
                 scheduling capacity is only 12 (num_enqueued_batches=1, max_enqueued_batches=3, open_batch_size=0, \
                 max_execution_batch_size=4)"
                .to_owned())
        );
        bench.rows(0, 1, 3).expect("there is room");
        bench.put(0, numbers(&[7], &[1, 2, 3, 4, 5, 6, 7]), None).expect("there is room");
        assert_eq!(bench.take(0), Some(("[3] 1 1 1, [1] 1".to_owned(), Closed::Size)));
        assert_eq!(bench.take(0), Some(("[4] 2 3 4 5".to_owned(), Closed::Size)));
        assert_eq!(bench.take(0), None);
        bench.rows(0, 8, 2).expect("there is room");
        assert_eq!(bench.take(0), Some(("[2] 6 7, [2] 8 8".to_owned(), Closed::Size)));
        bench.put(0, numbers(&[12], &[0; 12]), None).expect("it fills the queue");
        assert_eq!(bench.waiting.batches.iter().map(|batch| batch.weight).collect::<Vec<_>>(), [4, 4, 4]);
        assert!(bench.rows(0, 9, 1).is_err());
    }
}
