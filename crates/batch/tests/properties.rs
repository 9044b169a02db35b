//! Random requests through the batch scheduler, from several threads. Each caller must get exactly the answer to its
//! request, whatever the sizes, shapes, deadlines, failures and cancellations.
//!
//! Runs for one second; `SERVABLE_PROPERTY_SECONDS=60` sets another time.

use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use servable_batch::{BatchingOptions, LowPriorityOptions, MixedPriorityPolicy, PoolOptions, Queue, Scheduler};
use servable_model::call::{Call, Priority};
use servable_model::error::{Code, Result, ServingError};
use servable_model::executor::RunOptions;
use servable_model::tensor::{Buffer, DType, Elements, Tensor};

/// The effect of a request on its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Fine,
    Fails,
    Panics,
    LosesRows,
}

/// How a caller submits its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Without a lead.
    Leaves,
    /// With a lead, which is used if it is given.
    Leads,
    /// With a lead, which is declined.
    GivesUp,
}

#[derive(Clone, Debug)]
struct Request {
    rows: usize,
    columns: usize,
    fate: Fate,
    deadline_micros: Option<u64>,
    priority: Priority,
    way: Way,
    /// Whether the caller cancels the request at once.
    is_cancelled: bool,
    /// The index of the queue.
    queue: usize,
    /// The pause of the producer before the request.
    pause_micros: u64,
}

#[derive(Clone, Debug)]
struct Scenario {
    /// The options of each queue.
    options: Vec<BatchingOptions>,
    threads: usize,
    run_micros: u64,
    /// The requests of each producer.
    requests: Vec<Vec<Request>>,
}

fn request() -> impl Strategy<Value = Request> {
    let fate = prop_oneof![
        20 => Just(Fate::Fine),
        1 => Just(Fate::Fails),
        1 => Just(Fate::Panics),
        1 => Just(Fate::LosesRows),
    ];
    let deadline = prop_oneof![3 => Just(None), 1 => (0_u64..3000).prop_map(Some)];
    let pause = prop_oneof![4 => Just(0), 1 => 0_u64..1500];
    let way = prop_oneof![4 => Just(Way::Leaves), 3 => Just(Way::Leads), 1 => Just(Way::GivesUp)];
    let priority = prop_oneof![2 => Just(Priority::High), 1 => Just(Priority::Low)];
    let cancelled = prop::bool::weighted(0.1);
    (0_usize..12, 0_usize..4, fate, deadline, priority, way, cancelled, pause, 0..QUEUES).prop_map(
        |(rows, columns, fate, deadline_micros, priority, way, is_cancelled, pause_micros, queue)| Request {
            rows,
            columns,
            fate,
            deadline_micros,
            priority,
            way,
            is_cancelled,
            queue,
            pause_micros,
        },
    )
}

fn options() -> impl Strategy<Value = BatchingOptions> {
    let sizes = (1_usize..16).prop_flat_map(|size| (Just(size), 1..=size, any::<bool>()));
    let timeout = prop_oneof![Just(0), 1_u64..2000];
    let policy = prop_oneof![
        Just(MixedPriorityPolicy::PadToMaxBatchSize),
        Just(MixedPriorityPolicy::PadToNextAllowedSize),
        Just(MixedPriorityPolicy::Isolation),
        Just(MixedPriorityPolicy::Merge),
    ];
    let low = (prop::option::of(1_usize..16), prop::option::of(0_u64..2000), prop::option::of(1_usize..5)).prop_map(
        |(max_batch_size, batch_timeout_micros, max_enqueued_batches)| LowPriorityOptions {
            max_batch_size,
            batch_timeout_micros,
            max_enqueued_batches,
        },
    );
    let waits = prop_oneof![
        3 => timeout.prop_map(|micros| (micros, None)),
        1 => (500_u64..5000).prop_map(|micros| (0, Some(Duration::from_micros(micros)))),
    ];
    (sizes, waits, 1_usize..5, any::<bool>(), any::<bool>(), policy, low).prop_map(
        |(
            (max_batch_size, smaller, are_sizes_fixed),
            (batch_timeout_micros, latency_objective),
            max_enqueued_batches,
            pad,
            split,
            policy,
            low,
        )| {
            let mut allowed_batch_sizes = vec![smaller, max_batch_size];
            allowed_batch_sizes.dedup();
            BatchingOptions {
                max_batch_size,
                batch_timeout_micros,
                max_enqueued_batches,
                allowed_batch_sizes: if are_sizes_fixed { allowed_batch_sizes } else { Vec::new() },
                pad_variable_length_inputs: pad,
                enable_large_batch_splitting: split,
                max_execution_batch_size: split.then_some(smaller),
                latency_objective,
                rerun_failed_batches: true,
                mixed_priority_batching_policy: policy,
                low_priority: low,
            }
        },
    )
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let requests = prop::collection::vec(prop::collection::vec(request(), 1..25), 1..4);
    (prop::collection::vec(options(), 1..=QUEUES), 1_usize..4, 0_u64..300, requests)
        .prop_map(|(options, threads, run_micros, requests)| Scenario { options, threads, run_micros, requests })
}

/// The maximum number of queues.
const QUEUES: usize = 3;

/// An element, which encodes the name of the request, its row, and its fate.
fn element(name: i64, row: usize, column: usize, fate: Fate) -> i64 {
    ((name * 100 + row as i64) * 10 + column as i64) * 10 + fate as i64
}

fn name_of(element: i64) -> i64 {
    element / 10_000
}

fn tensor(shape: &[usize], elements: impl Iterator<Item = i64>) -> Tensor {
    let bytes: Vec<u8> = elements.flat_map(i64::to_le_bytes).collect();
    let shape = shape.iter().map(|&size| size as i64).collect();
    Tensor::from_numbers(DType::INT64, shape, Buffer::Shared(Bytes::from(bytes)))
}

fn elements(tensor: &Tensor) -> Vec<i64> {
    let Elements::Numbers(buffer) = tensor.elements() else { panic!("only numbers were put in") };
    buffer.as_ref().chunks(8).map(|word| i64::from_le_bytes(word.try_into().expect("eight bytes"))).collect()
}

/// The inputs of a request: its rows, and a second input with one element a row, which keeps the fate of empty rows.
fn inputs(name: i64, request: &Request) -> Vec<Tensor> {
    let Request { rows, columns, fate, .. } = *request;
    let cells = (0..rows).flat_map(|row| (0..columns).map(move |column| element(name, row, column, fate)));
    let keys = (0..rows).map(|row| element(name, row, 0, fate));
    vec![tensor(&[rows, columns], cells), tensor(&[rows], keys)]
}

/// The output for an element.
fn image(element: i64) -> i64 {
    element * 3 + 1
}

/// The batch function: maps every element, or fails as its rows demand. Errors name all requests of the batch.
fn run(options: &BatchingOptions, pause: Duration, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    let keys = elements(&inputs[1]);
    let rows = keys.len();
    let limit = options.allowed_batch_sizes.last().copied().unwrap_or_else(|| options.execution_size());
    assert!(rows <= limit, "a batch of {rows} rows under {options:?}");
    let is_allowed = options.allowed_batch_sizes.is_empty() || options.allowed_batch_sizes.contains(&rows) || rows == 0;
    assert!(is_allowed, "a batch of {rows} rows under {options:?}");
    std::thread::sleep(pause);
    let mut names: Vec<String> = keys.iter().map(|&key| format!("<{}>", name_of(key))).collect();
    names.dedup();
    let names = names.join("");
    let has = |fate: Fate| keys.iter().any(|key| key % 10 == fate as i64);
    assert!(!has(Fate::Panics), "{names}");
    if has(Fate::Fails) {
        return Err(ServingError::new(Code::DataLoss, names));
    }
    let kept = if has(Fate::LosesRows) { rows - 1 } else { rows };
    let columns = inputs[0].shape()[1] as usize;
    let cells = elements(&inputs[0]).into_iter().take(kept * columns).map(image);
    Ok(vec![tensor(&[kept, columns], cells), tensor(&[kept], keys.into_iter().take(kept).map(image))])
}

/// Checks an answer.
fn check(options: &BatchingOptions, name: i64, request: &Request, answer: Result<Vec<Tensor>>) -> Result<(), String> {
    let fail = |text: String| Err(format!("request {name}, {request:?}: {text}"));
    let error = match answer {
        Ok(outputs) => {
            let given = inputs(name, request);
            if elements(&outputs[1]) != elements(&given[1]).into_iter().map(image).collect::<Vec<_>>() {
                return fail(format!("rows of another: {outputs:?}"));
            }
            let width = outputs[0].shape()[1] as usize;
            let is_padded = options.pad_variable_length_inputs && width >= request.columns;
            if width != request.columns && !is_padded {
                return fail(format!("{width} columns"));
            }
            let cell = |row, column| {
                let (row, column) = if column < request.columns { (row, column) } else { (0, 0) };
                image(element(name, row, column, request.fate))
            };
            let found = elements(&outputs[0]);
            let is_own = found.len() == request.rows * width
                && found.iter().enumerate().all(|(index, &found)| found == cell(index / width, index % width));
            let is_doomed = request.fate != Fate::Fine && request.rows > 0;
            return if is_own && !is_doomed { Ok(()) } else { fail(format!("got {outputs:?}")) };
        }
        Err(error) => error,
    };
    let (rows, limit) = (request.rows.max(1), options.max_batch_size);
    let names_it = error.text().contains(&format!("<{name}>")) || request.rows == 0;
    let is_explained = match error.code {
        Code::InvalidArgument => rows > limit,
        Code::Unavailable if request.priority == Priority::Low => {
            rows <= limit && error.text().contains("low priority task queue")
        }
        Code::Unavailable => rows <= limit && error.text().contains("is full"),
        Code::ResourceExhausted => request.deadline_micros.is_some(),
        Code::DataLoss => names_it,
        Code::Internal => names_it && error.text().starts_with("the batch function panicked: <"),
        Code::FailedPrecondition => error.text().contains("0th dimension"),
        _ => false,
    };
    if is_explained { Ok(()) } else { fail(error.to_string()) }
}

impl Scenario {
    fn options_of(&self, request: &Request) -> &BatchingOptions {
        &self.options[request.queue % self.options.len()]
    }
}

/// A request that is unique.
const PATIENT: Request = Request {
    rows: 1,
    columns: 1,
    fate: Fate::Fine,
    deadline_micros: None,
    priority: Priority::High,
    way: Way::Leaves,
    is_cancelled: false,
    queue: 0,
    pause_micros: 0,
};

/// The checks of one producer.
async fn produce(scenario: &Scenario, queues: &[Queue], producer: usize) -> Result<(), String> {
    let mut tickets = Vec::new();
    for (index, request) in scenario.requests[producer].iter().enumerate() {
        std::thread::sleep(Duration::from_micros(request.pause_micros));
        let name = (producer * 100 + index) as i64 + 1;
        let (queue, options) = (&queues[request.queue % queues.len()], scenario.options_of(request));
        let deadline = request.deadline_micros.map(|after| Instant::now() + Duration::from_micros(after));
        let (inputs, call) = (inputs(name, request), Call::until(deadline).with_priority(request.priority));
        let submitted = match request.way {
            Way::Leaves => queue.submit(inputs, call).map(|ticket| (ticket, None)),
            Way::Leads | Way::GivesUp => queue.submit_or_lead(inputs, call),
        };
        let (ticket, lead) = match submitted {
            Ok(submitted) => submitted,
            Err(error) => {
                check(options, name, request, Err(error))?;
                continue;
            }
        };
        if !request.is_cancelled {
            tickets.push((name, request, ticket));
        }
        if let Some(lead) = lead.filter(|_| request.way == Way::Leads) {
            lead.run();
        }
    }
    for (name, request, ticket) in tickets {
        let answer = tokio::time::timeout(Duration::from_secs(10), ticket);
        let answer = answer.await.map_err(|_| format!("request {name}, {request:?}: no answer"))?;
        check(scenario.options_of(request), name, request, answer)?;
    }
    Ok(())
}

fn play(scenario: &Scenario) -> Result<(), String> {
    let pool = PoolOptions { num_batch_threads: scenario.threads, ..PoolOptions::default() };
    let scheduler = Scheduler::new(&pool).expect("threads");
    let pause = Duration::from_micros(scenario.run_micros);
    let queue = |options: &BatchingOptions| {
        let own = options.clone();
        let run = move |inputs: Vec<Tensor>, _: &RunOptions| run(&own, pause, &inputs);
        scheduler.queue(options.clone(), run).expect("options that fit")
    };
    let queues: Vec<Queue> = scenario.options.iter().map(queue).collect();
    // A request waits in another queue until the end. It must not delay the others.
    let patient = BatchingOptions { batch_timeout_micros: 600_000_000, ..BatchingOptions::default() };
    let patient = queue(&patient);
    let waits = patient.submit(inputs(0, &PATIENT), Call::default()).expect("there is room");
    std::thread::scope(|scope| {
        let producers: Vec<_> = (0..scenario.requests.len())
            .map(|producer| {
                let queues = &queues;
                scope.spawn(move || {
                    let clock = tokio::runtime::Builder::new_current_thread().enable_time().build();
                    clock.expect("a clock").block_on(produce(scenario, queues, producer))
                })
            })
            .collect();
        producers.into_iter().try_for_each(|producer| producer.join().expect("a producer does not panic"))
    })?;
    drop(patient);
    check(&BatchingOptions::default(), 0, &PATIENT, waits.wait())
}

#[test]
fn each_caller_gets_exactly_the_answer_to_its_request() {
    let seconds = std::env::var("SERVABLE_PROPERTY_SECONDS").map_or(1.0, |text| text.parse().expect("a number"));
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    // Batches that panic on purpose would fill the output.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload_as_str().is_none_or(|text| !text.starts_with('<')) {
            report(panic);
        }
    }));
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() });
    while Instant::now() < end {
        runner.run(&scenario(), |scenario| play(&scenario).map_err(TestCaseError::fail)).expect("every answer fits");
    }
}
