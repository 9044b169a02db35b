use std::sync::{Barrier, Mutex, mpsc};
use std::thread::{self, ThreadId};
use std::time::Duration;

use super::*;
use crate::testing::{numbers, text};
use crate::{Answer, Repeatable};
use servable_model::error::{Code, ServingError};
use servable_model::executor::RunOptions;

fn scheduler(threads: usize) -> Scheduler {
    let options = PoolOptions { num_batch_threads: threads, ..PoolOptions::default() };
    Scheduler::new(&options).expect("threads")
}

fn row(value: i64) -> Vec<Tensor> {
    vec![numbers(&[1], &[value])]
}

fn texts(answer: Answer) -> Result<Vec<String>, String> {
    answer.map(|outputs| outputs.iter().map(text).collect()).map_err(|error| error.to_string())
}

/// The controls of a batch function that reports its rows, and blocks until it may continue or this is dropped.
///
/// When a test fails, this is dropped before the scheduler, which joins its threads.
struct Stepped {
    begun: mpsc::Receiver<String>,
    go_on: mpsc::Sender<()>,
}

fn stepped() -> (Stepped, impl RunBatch) {
    let (tell, begun) = mpsc::channel();
    let (go_on, wait) = mpsc::channel();
    let wait = Mutex::new(wait);
    let run = move |inputs: Vec<Tensor>, _: &RunOptions| {
        tell.send(text(&inputs[0])).expect("the test listens");
        wait.lock().expect("no test panics here").recv().expect("the test says when");
        Ok(inputs)
    };
    (Stepped { begun, go_on }, run)
}

impl Stepped {
    fn next(&self) -> String {
        self.begun.recv_timeout(Duration::from_secs(10)).expect("a batch is run")
    }

    fn go_on(&self) {
        self.go_on.send(()).expect("the batch waits");
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it is a batch function")]
fn echo(inputs: Vec<Tensor>, _: &RunOptions) -> Result<Vec<Tensor>> {
    Ok(inputs)
}

#[test]
fn batches_form_while_the_threads_are_busy_and_answers_go_to_their_callers() {
    let scheduler = scheduler(1);
    let (steps, run) = stepped();
    let queue = scheduler.queue(BatchingOptions::default(), run).expect("a queue");
    let first = queue.submit(row(1), Call::default()).expect("there is room");
    assert_eq!(steps.next(), "[1] 1");
    let others: Vec<Ticket> =
        (2..5).map(|value| queue.submit(row(value), Call::default()).expect("there is room")).collect();
    steps.go_on();
    assert_eq!(texts(first.wait()), Ok(vec!["[1] 1".to_owned()]));
    assert_eq!(steps.next(), "[3] 2 3 4");
    steps.go_on();
    let answers: Vec<_> = others.into_iter().map(|ticket| texts(ticket.wait())).collect();
    assert_eq!(answers, [2, 3, 4].map(|value| Ok(vec![format!("[1] {value}")])));
}

/// A batch function that reports its thread and its rows.
fn recording() -> (mpsc::Receiver<(ThreadId, String)>, impl RunBatch) {
    let (tell, calls) = mpsc::channel();
    let run = move |inputs: Vec<Tensor>, _: &RunOptions| {
        tell.send((thread::current().id(), text(&inputs[0]))).expect("the test listens");
        Ok(inputs)
    };
    (calls, run)
}

#[test]
fn a_caller_with_the_lead_runs_what_has_arrived_by_then() {
    let (calls, run) = recording();
    let scheduler = scheduler(1);
    let queue = scheduler.queue(BatchingOptions::default(), run).expect("a queue");
    let (first, lead) = queue.submit_or_lead(row(1), Call::default()).expect("there is room");
    let (second, none) = queue.submit_or_lead(row(2), Call::default()).expect("there is room");
    assert!(none.is_none(), "one caller is enough");
    lead.expect("a batch may begin").run();
    assert_eq!(texts(first.wait()), Ok(vec!["[1] 1".to_owned()]));
    assert_eq!(texts(second.wait()), Ok(vec!["[1] 2".to_owned()]));
    assert_eq!(calls.try_iter().collect::<Vec<_>>(), [(thread::current().id(), "[2] 1 2".to_owned())]);
}

#[test]
fn each_ready_batch_has_a_caller_that_leads_it() {
    let (calls, run) = recording();
    let scheduler = scheduler(2);
    let options = BatchingOptions { max_batch_size: 2, ..BatchingOptions::default() };
    let queue = scheduler.queue(options, run).expect("a queue");
    let submitted = [1, 2, 3, 4].map(|value| queue.submit_or_lead(row(value), Call::default()).expect("there is room"));
    let (tickets, leads): (Vec<Ticket>, Vec<_>) = submitted.into_iter().unzip();
    assert_eq!(leads.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true, false]);
    assert_eq!(leads.into_iter().flatten().map(Lead::run).collect::<Vec<_>>(), [2, 2]);
    assert!(tickets.into_iter().all(|ticket| ticket.wait().is_ok()));
    let here = thread::current().id();
    assert_eq!(calls.try_iter().collect::<Vec<_>>(), [(here, "[2] 1 2".to_owned()), (here, "[2] 3 4".to_owned())]);
}

#[test]
fn a_declined_lead_is_taken_over_by_the_threads() {
    let (calls, run) = recording();
    let scheduler = scheduler(1);
    let queue = scheduler.queue(BatchingOptions::default(), run).expect("a queue");
    let (ticket, lead) = queue.submit_or_lead(row(1), Call::default()).expect("there is room");
    drop(lead);
    assert_eq!(texts(ticket.wait()), Ok(vec!["[1] 1".to_owned()]));
    assert!(calls.recv().is_ok_and(|(thread, _)| thread != thread::current().id()));
}

#[test]
fn a_caller_runs_no_batch_while_all_slots_are_taken() {
    let scheduler = scheduler(1);
    let (steps, run) = stepped();
    let queue = scheduler.queue(BatchingOptions::default(), run).expect("a queue");
    let first = queue.submit(row(1), Call::default()).expect("there is room");
    assert_eq!(steps.next(), "[1] 1");
    let (second, lead) = queue.submit_or_lead(row(2), Call::default()).expect("there is room");
    lead.expect("no other caller has the lead").run();
    steps.go_on();
    assert!(first.wait().is_ok());
    assert_eq!(steps.next(), "[1] 2");
    steps.go_on();
    assert_eq!(texts(second.wait()), Ok(vec!["[1] 2".to_owned()]));
}

#[test]
fn a_slot_that_a_caller_frees_goes_to_the_batch_that_waited_for_it() {
    let scheduler = scheduler(1);
    let (steps, run) = stepped();
    let queue = scheduler.queue(BatchingOptions::default(), run).expect("a queue");
    let (first, lead) = queue.submit_or_lead(row(1), Call::default()).expect("there is room");
    thread::scope(|scope| {
        scope.spawn(|| lead.expect("a batch may begin").run());
        assert_eq!(steps.next(), "[1] 1");
        let second = queue.submit(row(2), Call::default()).expect("there is room");
        steps.go_on();
        assert_eq!(steps.next(), "[1] 2");
        steps.go_on();
        assert!(first.wait().is_ok());
        assert!(second.wait().is_ok());
    });
}

#[test]
fn the_batch_of_a_blocked_lead_goes_to_the_next_caller() {
    let scheduler = scheduler(1);
    let queue = scheduler.queue(BatchingOptions::default(), echo).expect("a queue");
    let (ticket, held_up) = queue.submit_or_lead(row(1), Call::default()).expect("there is room");
    assert!(held_up.is_some());
    let next = loop {
        thread::sleep(Duration::from_millis(10));
        if let (_, Some(lead)) = queue.submit_or_lead(row(2), Call::default()).expect("there is room") {
            break lead;
        }
    };
    next.run();
    assert!(ticket.wait().is_ok());
    drop(held_up);
}

#[test]
fn a_batch_that_is_not_ready_for_its_lead_still_runs_in_time() {
    let scheduler = scheduler(1);
    let options = BatchingOptions {
        max_batch_size: 2,
        batch_timeout_micros: 20_000,
        max_enqueued_batches: 2,
        ..BatchingOptions::default()
    };
    let queue = scheduler.queue(options, echo).expect("a queue");
    // By then the thread is idle, and has to be woken.
    thread::sleep(Duration::from_millis(10));
    let full = vec![numbers(&[2], &[1, 1])];
    let (full, lead) = queue.submit_or_lead(full, Call::default()).expect("there is room");
    // Inputs of these shapes share no batch. No timer is armed for them, because the full batch has a lead.
    let second = queue.submit(vec![numbers(&[1, 1], &[2])], Call::default()).expect("there is room");
    drop(full);
    let third = queue.submit(vec![numbers(&[1, 2], &[3, 3])], Call::default()).expect("the room of the cancelled one");
    assert_eq!(lead.expect("a full batch may begin").run(), 0, "the others have to wait for their time");
    assert_eq!(texts(within_seconds(second)), Ok(vec!["[1, 1] 2".to_owned()]));
    assert_eq!(texts(within_seconds(third)), Ok(vec!["[1, 2] 3 3".to_owned()]));
}

/// The answer to a request, within a time limit.
fn within_seconds(ticket: Ticket) -> Answer {
    let (tell, answer) = mpsc::channel();
    thread::spawn(move || tell.send(ticket.wait()));
    answer.recv_timeout(Duration::from_secs(10)).expect("an answer")
}

#[test]
fn an_idle_thread_takes_a_batch_at_its_timeout() {
    let scheduler = scheduler(2);
    let slow = BatchingOptions { batch_timeout_micros: 60_000_000, ..BatchingOptions::default() };
    let quick = BatchingOptions { batch_timeout_micros: 20_000, ..BatchingOptions::default() };
    let slow = scheduler.queue(slow, echo).expect("a queue");
    let quick = scheduler.queue(quick, echo).expect("a queue");
    let patient = slow.submit(row(1), Call::default()).expect("there is room");
    let start = Instant::now();
    let ticket = quick.submit(row(2), Call::default()).expect("there is room");
    assert_eq!(texts(ticket.wait()), Ok(vec!["[1] 2".to_owned()]));
    assert!((Duration::from_millis(20)..Duration::from_secs(30)).contains(&start.elapsed()));
    drop(slow);
    assert_eq!(texts(patient.wait()), Ok(vec!["[1] 1".to_owned()]), "closing a queue answers what waits in it");
}

#[test]
fn a_thread_that_frees_a_slot_rearms_the_timer_for_the_batches_that_wait() {
    let scheduler = scheduler(1);
    let (steps, run) = stepped();
    let slow = BatchingOptions { batch_timeout_micros: 60_000_000, ..BatchingOptions::default() };
    let quick = BatchingOptions { batch_timeout_micros: 50_000, ..BatchingOptions::default() };
    let slow = scheduler.queue(slow, echo).expect("a queue");
    let quick = scheduler.queue(quick, run).expect("a queue");
    let patient = slow.submit(row(0), Call::default()).expect("there is room");
    let first = quick.submit(row(1), Call::default()).expect("there is room");
    assert_eq!(steps.next(), "[1] 1");
    // Another thread is now the timer of the slow queue: the quick one is at its limit.
    let second = quick.submit(row(2), Call::default()).expect("there is room");
    thread::sleep(Duration::from_millis(10));
    steps.go_on();
    assert_eq!(steps.next(), "[1] 2");
    steps.go_on();
    drop(slow);
    for (ticket, text) in [(patient, "[1] 0"), (first, "[1] 1"), (second, "[1] 2")] {
        assert_eq!(texts(ticket.wait()), Ok(vec![text.to_owned()]));
    }
}

#[test]
fn queues_take_turns() {
    let scheduler = scheduler(1);
    let (steps, run) = stepped();
    let run: Arc<dyn RunBatch> = Arc::new(run);
    let queue = || {
        let run = Arc::clone(&run);
        let options = BatchingOptions { max_batch_size: 1, ..BatchingOptions::default() };
        scheduler.queue(options, move |inputs: Vec<Tensor>, options: &RunOptions| run.run(inputs, options))
    };
    let (busy, calm) = (queue().expect("a queue"), queue().expect("a queue"));
    let mut tickets = Vec::new();
    for value in 0..4 {
        tickets.push(busy.submit(row(value), Call::default()).expect("there is room"));
    }
    assert_eq!(steps.next(), "[1] 0");
    tickets.push(calm.submit(row(100), Call::default()).expect("there is room"));
    let mut order = Vec::new();
    for _ in 0..4 {
        steps.go_on();
        order.push(steps.next());
    }
    steps.go_on();
    assert_eq!(order, ["[1] 1", "[1] 100", "[1] 2", "[1] 3"]);
}

#[test]
fn cancelled_requests_are_not_run() {
    let scheduler = scheduler(1);
    let (steps, run) = stepped();
    let queue = scheduler.queue(BatchingOptions::default(), run).expect("a queue");
    let first = queue.submit(row(1), Call::default()).expect("there is room");
    assert_eq!(steps.next(), "[1] 1");
    let soon = Call::until(Some(Instant::now() + Duration::from_millis(5)));
    let late = queue.submit(row(2), soon).expect("there is room");
    drop(queue.submit(row(3), Call::default()).expect("there is room"));
    let last = queue.submit(row(4), Call::default()).expect("there is room");
    while soon.check().is_ok() {
        std::thread::yield_now();
    }
    steps.go_on();
    assert_eq!(steps.next(), "[1] 4");
    steps.go_on();
    assert!(first.wait().is_ok());
    assert!(last.wait().is_ok());
    assert_eq!(
        texts(late.wait()),
        Err("RESOURCE_EXHAUSTED: Run() timeout exceeded while waiting in batching queue".to_owned())
    );
}

#[tokio::test]
async fn a_caller_hears_at_its_deadline_where_its_request_was() {
    let scheduler = scheduler(1);
    let (steps, run) = stepped();
    let queue = scheduler.queue(BatchingOptions::default(), run).expect("a queue");
    let soon = || Call::until(Some(Instant::now() + Duration::from_millis(50)));
    let (running, waiting) = (soon(), soon());
    let first = queue.submit(row(1), running).expect("there is room");
    steps.next();
    let second = queue.submit(row(2), waiting).expect("there is room");
    let (first, second) = (first.until_deadline(running).await, second.until_deadline(waiting).await);
    assert_eq!(first.expect_err("it takes too long").code, Code::DeadlineExceeded);
    assert_eq!(second.expect_err("it waits too long").code, Code::ResourceExhausted);
    steps.go_on();
}

#[test]
fn an_error_or_a_panic_fails_only_its_batch() {
    let scheduler = scheduler(2);
    let run = |inputs: Vec<Tensor>, _: &RunOptions| match text(&inputs[0]).as_str() {
        "[1] 13" => Err(ServingError::invalid_argument("unlucky")),
        "[1] 17" => panic!("told to"),
        _ => Ok(inputs),
    };
    let options = BatchingOptions { max_batch_size: 1, ..BatchingOptions::default() };
    let queue = scheduler.queue(options, run).expect("a queue");
    let tickets = [13, 1, 17, 2].map(|value| queue.submit(row(value), Call::default()).expect("there is room"));
    assert_eq!(
        tickets.map(|ticket| texts(ticket.wait())),
        [
            Err("INVALID_ARGUMENT: unlucky".to_owned()),
            Ok(vec!["[1] 1".to_owned()]),
            Err("INTERNAL: the batch function panicked: told to".to_owned()),
            Ok(vec!["[1] 2".to_owned()]),
        ]
    );
}

#[test]
fn the_pieces_of_a_request_come_back_as_one_answer_or_one_error() {
    let scheduler = scheduler(2);
    let run = |inputs: Vec<Tensor>, _: &RunOptions| {
        if text(&inputs[0]).contains("13") { Err(ServingError::invalid_argument("unlucky")) } else { Ok(inputs) }
    };
    let options = BatchingOptions {
        max_batch_size: 100,
        enable_large_batch_splitting: true,
        max_execution_batch_size: Some(3),
        ..BatchingOptions::default()
    };
    let queue = scheduler.queue(options, run).expect("a queue");
    let ask = |values: &[i64]| {
        let inputs = vec![numbers(&[values.len() as i64], values)];
        texts(queue.submit(inputs, Call::default()).expect("there is room").wait())
    };
    assert_eq!(ask(&[1, 2, 3, 4, 5, 6, 7, 8]), Ok(vec!["[8] 1 2 3 4 5 6 7 8".to_owned()]));
    assert_eq!(ask(&[1, 2, 3, 4, 5, 6, 7, 13]), Err("INVALID_ARGUMENT: unlucky".to_owned()));
}

#[test]
fn pieces_of_a_request_that_fail_at_once_cost_no_thread() {
    let scheduler = scheduler(2);
    let both_run = Barrier::new(2);
    let run = move |_: Vec<Tensor>, _: &RunOptions| {
        both_run.wait();
        Err(ServingError::invalid_argument("unlucky"))
    };
    let options = BatchingOptions {
        enable_large_batch_splitting: true,
        max_execution_batch_size: Some(1),
        ..BatchingOptions::default()
    };
    let queue = scheduler.queue(options, run).expect("a queue");
    for _ in 0..3 {
        let ticket = queue.submit(vec![numbers(&[2], &[1, 2])], Call::default()).expect("there is room");
        assert_eq!(texts(ticket.wait()), Err("INVALID_ARGUMENT: unlucky".to_owned()));
    }
}

#[test]
fn inputs_without_a_common_batch_dimension_are_refused() {
    let scheduler = scheduler(1);
    let queue = scheduler.queue(BatchingOptions::default(), echo).expect("a queue");
    for (inputs, expected) in [
        (vec![], "Batching Run() must have at least one input tensor"),
        (vec![numbers(&[], &[1])], "Batching Run() input tensors must have at least one dimension"),
        (
            vec![numbers(&[1], &[1]), numbers(&[2], &[1, 2])],
            "Batching Run() input tensors must have equal 0th-dimension size",
        ),
    ] {
        let refused = queue.submit(inputs, Call::default()).err().map(|error| error.to_string());
        assert_eq!(refused, Some(format!("INVALID_ARGUMENT: {expected}")));
    }
}

#[test]
fn rows_that_need_no_memory_are_counted_within_limits() {
    let scheduler = scheduler(1);
    let options =
        BatchingOptions { max_batch_size: usize::MAX, max_enqueued_batches: usize::MAX, ..Default::default() };
    let queue = scheduler.queue(options, echo).expect("a queue");
    for rows in [i64::MAX, i64::MAX, 1 << 40] {
        let refused = queue.submit(vec![numbers(&[rows, 0], &[])], Call::default()).err();
        let expected = format!("INVALID_ARGUMENT: Task size {rows} is larger than maximum input batch size 4294967296");
        assert_eq!(refused.map(|error| error.to_string()), Some(expected));
    }
    let many: Vec<_> = (0..3).map(|_| queue.submit(vec![numbers(&[1 << 32, 0], &[])], Call::default())).collect();
    for ticket in many {
        assert_eq!(texts(ticket.expect("there is room").wait()), Ok(vec!["[4294967296, 0] ".to_owned()]));
    }
    let ticket = queue.submit(row(7), Call::default()).expect("there is room");
    assert_eq!(texts(ticket.wait()), Ok(vec!["[1] 7".to_owned()]));
}

#[test]
fn a_dropped_scheduler_answers_all_requests() {
    let scheduler = scheduler(2);
    let options = BatchingOptions { batch_timeout_micros: 60_000_000, ..BatchingOptions::default() };
    let queue = scheduler.queue(options, echo).expect("a queue");
    let waiting = queue.submit(row(1), Call::default()).expect("there is room");
    drop(scheduler);
    assert_eq!(texts(waiting.wait()), Ok(vec!["[1] 1".to_owned()]));
    let refused = queue.submit(row(2), Call::default()).err().map(|error| error.code);
    assert_eq!(refused, Some(Code::Unavailable));
}

#[test]
fn slots_of_hung_batches_are_reclaimed_for_other_queues() {
    let scheduler = scheduler(2);
    let (steps, hangs) = stepped();
    let options = BatchingOptions { max_batch_size: 1, ..BatchingOptions::default() };
    let hanging = scheduler.queue(options.clone(), hangs).expect("a queue");
    let other = scheduler.queue(options, echo).expect("a queue");
    let submit = |queue: &Queue, value| queue.submit(row(value), Call::default()).expect("there is room");
    let hung: Vec<Ticket> = (1..5).map(|value| submit(&hanging, value)).collect();
    let mut begun = [steps.next(), steps.next()];
    begun.sort();
    assert_eq!(begun, ["[1] 1", "[1] 2"]);
    let start = Instant::now();
    for value in 0..100 {
        assert_eq!(texts(submit(&other, value).wait()), Ok(vec![format!("[1] {value}")]));
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "the first waits for a second, the others for nothing, and not {took:?}");
    assert!(steps.begun.try_recv().is_err(), "it runs no more than there are slots");
    // A caller of another queue gets a slot at once now, or as soon as the last batch has freed its slot.
    let led = (0..100).any(|value| {
        // Otherwise this thread, which was just woken with its answer, may be faster every time.
        std::thread::sleep(Duration::from_millis(1));
        let (ticket, lead) = other.submit_or_lead(row(value), Call::default()).expect("there is room");
        let count = lead.map(Lead::run);
        assert!(ticket.wait().is_ok());
        count == Some(1)
    });
    assert!(led, "it never got one");
    for _ in 0..4 {
        steps.go_on();
    }
    assert!(hung.into_iter().all(|ticket| ticket.wait().is_ok()));
}

#[test]
fn the_slot_of_a_long_batch_is_reclaimed_for_a_caller_that_waits() {
    let scheduler = scheduler(1);
    let (steps, hangs) = stepped();
    let hanging = scheduler.queue(BatchingOptions::default(), hangs).expect("a queue");
    let other = scheduler.queue(BatchingOptions::default(), echo).expect("a queue");
    std::thread::scope(|scope| {
        // On a thread outside the scheduler.
        scope.spawn(|| {
            let (_ticket, lead) = hanging.submit_or_lead(row(1), Call::default()).expect("there is room");
            lead.expect("a batch may begin").run();
        });
        assert_eq!(steps.next(), "[1] 1");
        let (ticket, lead) = other.submit_or_lead(row(2), Call::default()).expect("there is room");
        assert_eq!(lead.map(Lead::run), Some(0), "there is no free slot yet");
        assert_eq!(texts(ticket.wait()), Ok(vec!["[1] 2".to_owned()]));
        steps.go_on();
    });
}

/// A batch function that refuses batches as `error` says, and reports the batches that it gets.
fn picky(
    is_repeatable: bool,
    error: fn(&str) -> Option<ServingError>,
) -> (mpsc::Receiver<String>, Repeatable<impl RunBatch>) {
    let (tell, calls) = mpsc::channel();
    let run = move |inputs: Vec<Tensor>, _: &RunOptions| {
        let rows = text(&inputs[0]);
        tell.send(rows.clone()).expect("the test listens");
        error(&rows).map_or(Ok(inputs), Err)
    };
    (calls, Repeatable { run, is_repeatable })
}

/// Refuses 13 and 17.
fn unlucky(rows: &str) -> Option<ServingError> {
    let number = ["13", "17"].into_iter().find(|number| rows.contains(number))?;
    Some(ServingError::new(Code::OutOfRange, format!("{number} is unlucky")))
}

/// The answers to requests of one row each that are in one batch.
fn answers(queue: &Queue, values: &[i64]) -> Vec<Result<Vec<String>, String>> {
    let tickets: Vec<Ticket> =
        values.iter().map(|&value| queue.submit(row(value), Call::default()).expect("there is room")).collect();
    tickets.into_iter().map(|ticket| texts(ticket.wait())).collect()
}

fn of(size: usize) -> BatchingOptions {
    let seldom = 60_000_000;
    BatchingOptions { max_batch_size: size, batch_timeout_micros: seldom, ..BatchingOptions::default() }
}

#[test]
fn the_failing_requests_of_a_batch_are_isolated_by_bisection() {
    let scheduler = scheduler(1);
    let (calls, run) = picky(true, unlucky);
    let queue = scheduler.queue(of(8), run).expect("a queue");
    let values = [1, 13, 2, 3, 4, 5, 17, 6];
    let error = |value: i64| Err(format!("OUT_OF_RANGE: {value} is unlucky"));
    let expected: Vec<_> =
        values.map(|value| if value > 10 { error(value) } else { Ok(vec![format!("[1] {value}")]) }).into();
    assert_eq!(answers(&queue, &values), expected);
    let calls: Vec<String> = calls.try_iter().collect();
    assert!(calls.len() <= 1 + 2 * values.len() - 2, "{calls:?}");
    let tally = queue.statistics().read();
    assert_eq!((tally.batches(), tally.sizes[&8].failed), (1, 1), "the others count apart");
    assert_eq!((tally.reruns as usize, tally.rescued), (calls.len() - 1, 6));
}

#[test]
fn a_request_that_fails_alone_is_not_run_again_and_its_error_names_its_shape() {
    let scheduler = scheduler(1);
    let (calls, run) = picky(true, unlucky);
    let options = BatchingOptions { allowed_batch_sizes: vec![4], batch_timeout_micros: 0, ..of(4) };
    let queue = scheduler.queue(options, run).expect("a queue");
    let error = "OUT_OF_RANGE: 13 is unlucky (in a batch of 4 rows; sent with shape [1])";
    assert_eq!(answers(&queue, &[13]), [Err(error.to_owned())]);
    assert_eq!(calls.try_iter().collect::<Vec<_>>(), ["[4] 13 13 13 13"]);
}

#[test]
fn batches_are_not_run_again_if_they_must_not_or_would_fail_as_a_whole() {
    let whole = |text: &str| vec![Err(text.to_owned()); 2];
    for (is_repeatable, reruns, error, expected) in [
        (
            false,
            true,
            (|_| Some(ServingError::invalid_argument("broken"))) as fn(&str) -> Option<ServingError>,
            whole("INVALID_ARGUMENT: broken (in a batch of 2 rows; sent with shape [1])"),
        ),
        (
            true,
            false,
            |_| Some(ServingError::invalid_argument("broken")),
            whole("INVALID_ARGUMENT: broken (in a batch of 2 rows; sent with shape [1])"),
        ),
        (
            true,
            true,
            |_| Some(ServingError::new(Code::ResourceExhausted, "no memory")),
            whole("RESOURCE_EXHAUSTED: no memory"),
        ),
        (true, true, |_| Some(ServingError::new(Code::Unavailable, "unloaded")), whole("UNAVAILABLE: unloaded")),
    ] {
        let scheduler = scheduler(1);
        let (calls, run) = picky(is_repeatable, error);
        let queue = scheduler.queue(BatchingOptions { rerun_failed_batches: reruns, ..of(2) }, run).expect("a queue");
        assert_eq!(answers(&queue, &[1, 2]), expected);
        assert_eq!(calls.try_iter().count(), 1, "{expected:?}");
    }
    // Outputs that cannot be split are not the fault of a request.

    let scheduler = scheduler(1);
    let run = |_: Vec<Tensor>, _: &RunOptions| Ok(vec![numbers(&[1], &[1])]);
    let queue = scheduler.queue(of(2), Repeatable { run, is_repeatable: true }).expect("a queue");
    assert!(answers(&queue, &[1, 2]).iter().all(Result::is_err));
    assert_eq!(queue.statistics().read().reruns, 0);
}

#[test]
fn expired_requests_of_a_failed_batch_are_not_run_again() {
    let scheduler = scheduler(1);
    let (tell, calls) = mpsc::channel();
    let deadline = Instant::now() + Duration::from_millis(50);
    let run = move |inputs: Vec<Tensor>, _: &RunOptions| {
        tell.send(text(&inputs[0])).expect("the test listens");
        thread::sleep(deadline.saturating_duration_since(Instant::now()));
        if text(&inputs[0]).contains("13") { Err(ServingError::invalid_argument("unlucky")) } else { Ok(inputs) }
    };
    let queue = scheduler.queue(of(3), Repeatable { run, is_repeatable: true }).expect("a queue");
    let late = queue.submit(row(1), Call::until(Some(deadline))).expect("there is room");
    let others = [13, 2].map(|value| queue.submit(row(value), Call::default()).expect("there is room"));
    assert_eq!(late.wait().expect_err("its time is over").code, Code::DeadlineExceeded);
    let others = others.map(|ticket| texts(ticket.wait()));
    assert_eq!(others, [Err("INVALID_ARGUMENT: unlucky".to_owned()), Ok(vec!["[1] 2".to_owned()])]);
    assert!(calls.try_iter().skip(1).all(|rows| !rows.contains(" 1 ") && rows != "[1] 1"));
}

#[test]
fn a_piece_of_a_request_is_run_again_with_the_others_of_its_batch() {
    let scheduler = scheduler(1);
    let (_calls, run) = picky(true, unlucky);
    let options = BatchingOptions { enable_large_batch_splitting: true, max_execution_batch_size: Some(2), ..of(100) };
    let queue = scheduler.queue(options, run).expect("a queue");
    let whole = queue.submit(vec![numbers(&[3], &[1, 2, 3])], Call::default()).expect("there is room");
    let bad = queue.submit(row(13), Call::default()).expect("there is room");
    assert_eq!(texts(whole.wait()), Ok(vec!["[3] 1 2 3".to_owned()]));
    assert_eq!(texts(bad.wait()), Err("OUT_OF_RANGE: 13 is unlucky".to_owned()));
}
