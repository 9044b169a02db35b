use super::*;
use crate::options::LowPriorityOptions;
use crate::task::Ticket;
use crate::testing::{numbers, text};
use servable_model::call::{Call, Priority};

/// A queue with a manual clock, in milliseconds.
struct Bench {
    waiting: Waiting,
    start: Instant,
    tickets: Vec<Ticket>,
}

impl Bench {
    fn new(options: BatchingOptions) -> Self {
        options.check().expect("options that fit");
        Self { waiting: Waiting::new(Arc::new(options), None), start: Instant::now(), tickets: Vec::new() }
    }

    /// A queue with a latency objective of 100 ms, in which batches of at most two rows fit.
    fn within_objective(options: BatchingOptions) -> Self {
        let adaptive = Adaptive::new(Duration::from_millis(100), &options, 1);
        for (size, milliseconds) in [(1, 10), (2, 12), (4, 60), (8, 120)] {
            let took = Duration::from_millis(milliseconds);
            (0..2).for_each(|_| adaptive.ran(size, took, size, 0, Instant::now()));
        }
        let decision = adaptive.decision();
        assert_eq!((decision.target_size, decision.piece_size, decision.max_waiting_rows), (2, 2, 11));
        Self { waiting: Waiting::new(Arc::new(options), Some(Arc::new(adaptive))), ..Self::new(small()) }
    }

    fn at(&self, milliseconds: u64) -> Instant {
        self.start + Duration::from_millis(milliseconds)
    }

    fn put(&mut self, milliseconds: u64, input: Tensor, deadline: Option<u64>) -> Result<(), String> {
        let call = Call::until(deadline.map(|deadline| self.at(deadline)));
        self.put_call(milliseconds, input, call)
    }

    /// Puts in a request of low priority.
    fn low(&mut self, milliseconds: u64, name: i64, rows: i64) -> Result<(), String> {
        let call = Call::default().with_priority(Priority::Low);
        self.put_call(milliseconds, numbers(&[rows], &vec![name; rows as usize]), call)
    }

    fn put_call(&mut self, milliseconds: u64, input: Tensor, call: Call) -> Result<(), String> {
        let now = self.at(milliseconds);
        let (task, ticket) = Task::new(vec![input], call, now).expect("an input with rows");
        self.tickets.push(ticket);
        let placement = self.waiting.admit(&task).map_err(|error| error.to_string())?;
        self.waiting.insert(task, &placement, now);
        Ok(())
    }

    /// Puts in a request of this many rows, all of them `name`.
    fn rows(&mut self, milliseconds: u64, name: i64, rows: i64) -> Result<(), String> {
        self.put(milliseconds, numbers(&[rows], &vec![name; rows as usize]), None)
    }

    /// The requests of the batch that an idle thread takes.
    fn take(&mut self, milliseconds: u64) -> Option<(String, Closed)> {
        let now = self.at(milliseconds);
        let is_ready = self.waiting.ready_count(now) > 0;
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
fn requests_are_queued_and_taken_as_in_the_worked_example() {
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
fn a_greedy_queue_makes_every_batch_ready_at_once() {
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
fn empty_requests_are_batched_with_others_and_alone() {
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

#[test]
fn cancelled_requests_take_no_room_from_others() {
    let mut bench = Bench::new(small());
    bench.put(0, numbers(&[4], &[1; 4]), Some(5)).expect("there is room");
    bench.rows(0, 2, 4).expect("there is room");
    assert!(bench.rows(1, 3, 4).is_err());
    assert!(bench.waiting.remove_cancelled(bench.at(4)).is_empty(), "none is cancelled");
    bench.tickets.clear();
    assert_eq!(bench.waiting.remove_cancelled(bench.at(4)).len(), 0, "the last sweep was just now");
    assert_eq!(bench.waiting.remove_cancelled(bench.at(6)).len(), 2);
    assert_eq!(bench.rows(6, 4, 4), Ok(()));
    assert_eq!(bench.rows(6, 5, 4), Ok(()));
    assert_eq!(bench.take(6), Some(taken("[4] 4 4 4 4", Closed::Size)));
}

#[test]
fn pieces_of_a_request_are_padded_alike() {
    let mut bench = Bench::new(BatchingOptions {
        pad_variable_length_inputs: true,
        enable_large_batch_splitting: true,
        max_batch_size: 16,
        max_execution_batch_size: Some(4),
        max_enqueued_batches: 5,
        ..small()
    });
    let put = |bench: &mut Bench, rows: i64, columns: i64| {
        bench.put(0, numbers(&[rows, columns], &vec![columns; (rows * columns) as usize]), None).expect("room");
    };
    put(&mut bench, 1, 3);
    put(&mut bench, 6, 2);
    put(&mut bench, 1, 3);
    put(&mut bench, 1, 1);
    let mut batches = Vec::new();
    while let Some((batch, _)) = bench.waiting.take(bench.at(10)) {
        batches.push(batch.tasks.iter().map(|task| task.inputs[0].shape().to_vec()).collect::<Vec<_>>());
    }
    let expected: [&[[i64; 2]]; 4] = [&[[1, 3]], &[[4, 2]], &[[2, 2]], &[[1, 3], [1, 1]]];
    assert_eq!(batches, expected.map(|batch| batch.iter().map(|shape| shape.to_vec()).collect::<Vec<_>>()));
}

/// Options with up to four rows a batch, the allowed sizes 2 and 4, and this policy.
fn mixed(policy: MixedPriorityPolicy) -> Bench {
    Bench::new(BatchingOptions {
        allowed_batch_sizes: vec![2, 4],
        mixed_priority_batching_policy: policy,
        low_priority: LowPriorityOptions {
            max_batch_size: Some(3),
            batch_timeout_micros: Some(20_000),
            max_enqueued_batches: None,
        },
        ..small()
    })
}

fn taken(text: &str, closed: Closed) -> (String, Closed) {
    (text.to_owned(), closed)
}

#[test]
fn requests_of_low_priority_fill_up_other_batches_as_the_policy_says() {
    for (policy, batch) in [
        (MixedPriorityPolicy::PadToMaxBatchSize, "[1] 1, [1] 7, [1] 8, [1] 9"),
        (MixedPriorityPolicy::PadToNextAllowedSize, "[1] 1"),
        (MixedPriorityPolicy::Isolation, "[1] 1"),
        (MixedPriorityPolicy::Merge, "[1] 1, [1] 7, [1] 8, [1] 9"),
    ] {
        let mut bench = mixed(policy);
        // A batch of one row has no padding; with the size 2 it would.
        let first = if policy == MixedPriorityPolicy::PadToNextAllowedSize { vec![1, 4] } else { vec![2, 4] };
        bench.waiting = Waiting::new(
            Arc::new(BatchingOptions { allowed_batch_sizes: first, ..(*bench.waiting.options).clone() }),
            None,
        );
        bench.rows(0, 1, 1).expect("there is room");
        (7..10).for_each(|name| bench.low(1, name, 1).expect("there is room"));
        let closed = if policy == MixedPriorityPolicy::Merge { Closed::Size } else { Closed::Timeout };
        assert_eq!(bench.take(10), Some(taken(batch, closed)), "{policy:?}");
    }
    let mut bench = mixed(MixedPriorityPolicy::PadToNextAllowedSize);
    bench.rows(0, 1, 1).expect("there is room");
    (7..10).for_each(|name| bench.low(1, name, 1).expect("there is room"));
    assert_eq!(bench.take(10), Some(taken("[1] 1, [1] 7", Closed::Timeout)));
}

#[test]
fn requests_of_low_priority_form_batches_when_no_other_waits() {
    let mut bench = mixed(MixedPriorityPolicy::Isolation);
    bench.low(0, 7, 2).expect("there is room");
    assert_eq!(bench.waiting.next_timeout(), Some(bench.at(20)));
    assert_eq!(bench.take(19), None);
    bench.rows(19, 1, 1).expect("there is room");
    assert_eq!(bench.take(25), None, "others come first");
    assert_eq!(bench.take(29), Some(taken("[1] 1", Closed::Timeout)));
    assert_eq!(bench.take(29), Some(taken("[2] 7 7", Closed::Timeout)));
    bench.low(30, 8, 2).expect("there is room");
    bench.low(30, 9, 1).expect("there is room");
    assert_eq!(bench.take(30), Some(taken("[2] 8 8, [1] 9", Closed::Size)));
    assert!(bench.waiting.is_empty());
}

#[test]
fn requests_of_low_priority_have_separate_limits() {
    let mut bench = mixed(MixedPriorityPolicy::Isolation);
    let refused = bench.low(0, 7, 4).expect_err("a batch of low priority takes three rows");
    assert_eq!(
        refused,
        "UNAVAILABLE: The low priority task queue to which this task was submitted has max_execution_batch_size=3 and the \
         task size is 4"
    );
    bench.low(0, 7, 3).expect("there is room");
    bench.low(0, 8, 2).expect("there is room");
    let refused = bench.low(0, 9, 2).expect_err("six rows may wait");
    assert!(refused.contains("currently the low priority queue has 5 tasks enqueued and the submitted task size is 2"));
    assert_eq!(bench.rows(0, 1, 4), Ok(()), "others have room");
}

#[test]
fn a_request_of_low_priority_waits_for_half_a_minute_at_most() {
    let mut bench = mixed(MixedPriorityPolicy::Isolation);
    bench.low(0, 7, 1).expect("there is room");
    for second in 1..30 {
        bench.rows(second * 1000, 1, 4).expect("there is room");
        assert_eq!(bench.take(second * 1000), Some(taken("[4] 1 1 1 1", Closed::Size)));
        bench.rows(second * 1000, 2, 4).expect("there is room");
        assert_eq!(bench.take(second * 1000), Some(taken("[4] 2 2 2 2", Closed::Size)));
        bench.low(second * 1000, 8, 1).err();
        bench.rows(second * 1000, 3, 1).expect("there is room");
        if second < 29 {
            assert_eq!(bench.take(second * 1000 + 500).map(|(text, _)| text), Some("[1] 3".to_owned()));
        }
    }
    let first = bench.take(30_000).map(|(text, _)| text);
    assert!(first.is_some_and(|text| text.starts_with("[1] 7, [1] 8")), "its turn comes before those of others");
}

#[test]
fn among_requests_of_low_priority_the_earliest_deadline_goes_first() {
    let mut bench = mixed(MixedPriorityPolicy::Isolation);
    bench.low(0, 7, 2).expect("there is room");
    let soon = Call::until(Some(bench.at(500))).with_priority(Priority::Low);
    bench.put_call(0, numbers(&[2], &[8, 8]), soon).expect("there is room");
    assert_eq!(bench.take(0), Some(taken("[2] 8 8", Closed::Size)));
    assert_eq!(bench.take(20), Some(taken("[2] 7 7", Closed::Timeout)));
}

/// Requests of up to 16 rows in batches of up to 8.
fn splitting() -> BatchingOptions {
    BatchingOptions {
        enable_large_batch_splitting: true,
        max_batch_size: 16,
        max_execution_batch_size: Some(8),
        max_enqueued_batches: 3,
        batch_timeout_micros: 0,
        ..BatchingOptions::default()
    }
}

#[test]
fn with_a_latency_objective_requests_are_split_into_batches_that_meet_it() {
    let mut bench = Bench::within_objective(splitting());
    assert_eq!(bench.rows(0, 1, 5), Ok(()));
    assert_eq!(bench.rows(0, 2, 1), Ok(()), "there is room beside the last piece");
    assert_eq!(bench.rows(0, 3, 5), Ok(()), "three batches may wait, if they are of eight rows");
    assert_eq!(
        bench.rows(0, 4, 1),
        Err("UNAVAILABLE: The batch scheduling queue to which this task was submitted is full; currently 11 rows wait, \
             and no more than 11 can be answered within 100 ms"
            .to_owned())
    );
    for batch in ["[2] 1 1", "[2] 1 1", "[1] 1, [1] 2", "[2] 3 3", "[2] 3 3"] {
        assert_eq!(bench.take(0), Some(taken(batch, Closed::Size)));
    }
    assert_eq!(bench.take(0).map(|(text, _)| text), Some("[1] 3".to_owned()));
    assert_eq!(bench.rows(0, 5, 16), Ok(()), "one that is alone is served, however late");
    assert_eq!(bench.waiting.batches.len(), 8);
}

#[test]
fn with_a_latency_objective_batches_of_low_priority_are_no_larger_than_it_allows() {
    let mut bench = Bench::within_objective(splitting());
    bench.rows(0, 1, 1).expect("there is room");
    bench.low(0, 7, 5).expect("there is room");
    (0..3).for_each(|_| bench.low(0, 8, 1).expect("there is room"));
    for batch in ["[1] 1, [1] 7", "[2] 7 7", "[2] 7 7", "[1] 8, [1] 8", "[1] 8"] {
        assert_eq!(bench.take(0).map(|(text, _)| text), Some(batch.to_owned()));
    }
}
