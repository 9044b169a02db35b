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
