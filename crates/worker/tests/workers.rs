//! Both sides in one process: a worker is a number of threads, and its end is the end of its sockets.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use servable_model::error::{Code, Result, ServingError};
use servable_model::executor::{Executor, RunOptions};
use servable_model::signature::{Signature, TensorSpec};
use servable_model::tensor::{Buffer, DType, Elements, Strings, Tensor};
use servable_worker::{Description, Model, WorkerExecutor, Workers, serve};

/// Returns its inputs, or does what the first string of the first one says.
struct Echo;

impl Model for Echo {
    fn run(&self, _: &Signature, inputs: Vec<Tensor>, outputs: &[usize], options: &RunOptions) -> Result<Vec<Tensor>> {
        if let Some(Elements::Strings(strings)) = inputs.first().map(Tensor::elements) {
            match strings.iter().next() {
                Some(b"fail") => return Err(ServingError::new(Code::OutOfRange, *b"as told \xff")),
                Some(b"deadline") => assert!(options.deadline.is_some_and(|deadline| deadline > Instant::now())),
                Some(b"sleep") => std::thread::sleep(Duration::from_millis(300)),
                _ => {}
            }
        }
        Ok(outputs.iter().map(|&output| inputs[output].clone()).collect())
    }

    fn check_inputs(&self, signature: &Signature, inputs: &[Tensor]) -> Result<()> {
        let (spec, input) = (&signature.inputs[0], &inputs[0]);
        Err(ServingError::invalid_argument(format!("input {}: got {:?}", spec.alias, input.shape())))
    }
}

fn signature(dtypes: &[DType], shape: Option<&[i64]>) -> Signature {
    let spec = |(number, &dtype): (usize, &DType)| TensorSpec {
        alias: number.to_string(),
        tensor_name: format!("s/{number}"),
        dtype,
        shape: shape.map(<[i64]>::to_vec),
    };
    let specs: Vec<_> = dtypes.iter().enumerate().map(spec).collect();
    Signature { inputs: specs.clone(), outputs: specs, ..Signature::default() }
}

fn executor(workers: &Arc<Workers>) -> WorkerExecutor {
    let description = Description {
        signature_defs: Bytes::new(),
        platform: "echo".to_owned(),
        runtime: "echo".to_owned(),
        is_repeatable: true,
        longest_run: None,
    };
    WorkerExecutor { workers: Arc::clone(workers), description, slots: 1 }
}

/// The other ends of the sockets of a process: control, and slots.
type Ends = (UnixStream, Vec<UnixStream>);

/// Adds a process with this many slots, and nobody at their other ends.
fn add(workers: &Workers, slots: usize) -> (u64, Ends) {
    let (control, control_end) = UnixStream::pair().expect("sockets");
    let (ours, ends): (Vec<_>, Vec<_>) = (0..=slots)
        .map(|_| UnixStream::pair().expect("sockets"))
        .map(|(one, other)| (OwnedFd::from(one), other))
        .unzip();
    (workers.add(control.into(), ours), (control_end, ends))
}

/// Workers with one process that echoes.
fn echoing(slots: usize) -> (WorkerExecutor, UnixStream) {
    let workers = Workers::new("m/1");
    let (_, (control, ends)) = add(&workers, slots);
    for end in ends {
        std::thread::spawn(move || serve(&Echo, end.into()));
    }
    (executor(&workers), control)
}

fn run(executor: &WorkerExecutor, inputs: Vec<Tensor>, deadline: Option<Instant>) -> Result<Vec<Tensor>> {
    let dtypes: Vec<_> = inputs.iter().map(Tensor::dtype).collect();
    let all: Vec<_> = (0..inputs.len()).collect();
    executor.run(&signature(&dtypes, None), inputs, &all, &RunOptions { deadline })
}

fn text(order: &str) -> Vec<Tensor> {
    vec![Tensor::from_strings(vec![1], Strings::from_iter([order]))]
}

fn bytes(len: usize, value: u8) -> Tensor {
    Tensor::from_numbers(DType::UINT8, vec![len as i64], Buffer::Shared(vec![value; len].into()))
}

fn content(tensor: &Tensor) -> &[u8] {
    let Elements::Numbers(buffer) = tensor.elements() else { panic!("numbers were put in") };
    buffer.as_ref()
}

#[test]
fn tensors_of_any_size_come_back() {
    let (executor, _control) = echoing(1);
    for len in [0, 1, 10_000, 20_000, 1 << 20, 40 << 20, 3, 16 << 20, 0] {
        let sent = vec![bytes(len, 7), bytes(5, 8), bytes(len / 2, 9)];
        let got = run(&executor, sent.clone(), None).expect("it echoes");
        assert_eq!(got.len(), 3);
        assert!(got.iter().zip(&sent).all(|(got, sent)| content(got) == content(sent)), "{len} bytes");
    }
    let strings: Strings = (0..9000).map(|number| "é".repeat(number % 7)).collect();
    let got = run(&executor, vec![Tensor::from_strings(vec![90, 100], strings.clone())], None).expect("it echoes");
    let Elements::Strings(echoed) = got[0].elements() else { panic!("strings were put in") };
    assert!(echoed.iter().eq(strings.iter()));
    assert_eq!(got[0].shape(), [90, 100]);
}

#[test]
fn outputs_that_are_still_lent_do_not_change() {
    let (executor, _control) = echoing(1);
    let kept: Vec<_> = (0..5).map(|number| run(&executor, vec![bytes(100_000, number)], None).expect("ok")).collect();
    for (number, outputs) in kept.iter().enumerate() {
        assert!(content(&outputs[0]).iter().all(|&byte| usize::from(byte) == number), "{number}");
    }
}

#[test]
fn chosen_outputs_errors_and_deadlines_pass() {
    let (executor, _control) = echoing(1);
    let three = vec![bytes(1, 1), bytes(2, 2), bytes(3, 3)];
    let got = executor.run(&signature(&[DType::UINT8; 3], None), three, &[2, 0], &RunOptions::default()).expect("ok");
    assert_eq!(got.iter().map(Tensor::len).collect::<Vec<_>>(), [3, 1]);
    let error = run(&executor, text("fail"), None).expect_err("it was told to");
    assert_eq!((error.code, &*error.message), (Code::OutOfRange, &b"as told \xff"[..]));
    run(&executor, text("deadline"), Some(Instant::now() + Duration::from_secs(50))).expect("there is one");
}

#[test]
fn slots_of_one_process_run_concurrently() {
    let (executor, _control) = echoing(4);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| run(&executor, text("sleep"), None).expect("it echoes"));
        }
    });
    assert!(start.elapsed() < Duration::from_millis(1100), "four times 300 ms");
}

#[test]
fn only_inputs_that_do_not_match_their_specs_are_checked_by_the_worker() {
    let (executor, _control) = echoing(1);
    let signature = signature(&[DType::UINT8], Some(&[-1]));
    executor.check_inputs(&signature, &[bytes(5, 0)]).expect("the worker would refuse it");
    let scalar = Tensor::from_numbers(DType::UINT8, vec![], Buffer::Shared(vec![0].into()));
    let error = executor.check_inputs(&signature, &[scalar]).expect_err("the worker refuses it");
    assert_eq!(error.to_string(), "INVALID_ARGUMENT: input 0: got []");
}

/// Whether the other end of a control socket has been shut down.
fn is_disconnected(control: &mut UnixStream) -> bool {
    matches!(control.read(&mut [0]), Ok(0))
}

#[test]
fn a_run_whose_worker_ends_is_unavailable_and_the_next_waits_for_another() {
    let workers = Workers::new("m/1");
    let executor = executor(&workers);
    let (number, (mut control, ends)) = add(&workers, 1);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| run(&executor, text(""), None).expect_err("nobody answers"));
        (&ends[0]).read_exact(&mut [0; 4]).expect("a request is sent");
        drop(ends);
        assert!(is_disconnected(&mut control), "the process is to be replaced");
        assert_eq!(workers.replacement_reason(number), None, "it has ended by itself");
        let next = scope.spawn(|| run(&executor, text("x"), None));
        let report = workers.remove(number, "was killed by SIGKILL");
        assert!(report.was_busy && !report.has_answered);
        let error = running.join().expect("no panic");
        assert_eq!(error.to_string(), "UNAVAILABLE: the worker of m/1 was killed by SIGKILL during the request");
        let (_, (_control, ends)) = add(&workers, 1);
        for end in ends {
            std::thread::spawn(move || serve(&Echo, end.into()));
        }
        next.join().expect("no panic").expect("it is run by the next process");
    });
}

#[test]
fn without_a_worker_requests_are_refused_after_a_while_or_at_once_with_a_reason() {
    let workers = Workers::new("m/1");
    let executor = executor(&workers);
    let (number, _ends) = add(&workers, 1);
    workers.remove(number, "exited with status 7");
    let start = Instant::now();
    let error = run(&executor, text(""), None).expect_err("there is no worker");
    assert!(start.elapsed() > Duration::from_secs(1));
    let expected = "UNAVAILABLE: m/1 has no worker: the last one exited with status 7, and is being replaced";
    assert_eq!(error.to_string(), expected);
    workers.refuse("disk full");
    let error = run(&executor, text(""), None).expect_err("there is no worker");
    assert_eq!(error.to_string(), "UNAVAILABLE: m/1 has no worker: disk full");
    workers.close();
    let error = run(&executor, text(""), None).expect_err("it is closed");
    assert_eq!(error.to_string(), "UNAVAILABLE: m/1 is being unloaded");
}

#[test]
fn a_busy_slot_is_waited_for_until_the_deadline() {
    let (executor, _control) = echoing(1);
    std::thread::scope(|scope| {
        scope.spawn(|| run(&executor, text("sleep"), None).expect("it echoes"));
        std::thread::sleep(Duration::from_millis(50));
        let soon = Some(Instant::now() + Duration::from_millis(20));
        let error = run(&executor, text(""), soon).expect_err("the slot is busy");
        assert_eq!(error.to_string(), "DEADLINE_EXCEEDED: no worker of m/1 was free in time");
        run(&executor, text(""), None).expect("it is free later");
    });
}

#[test]
fn a_worker_that_hangs_is_replaced_some_time_after_the_deadline() {
    let workers = Workers::new("m/1");
    let executor = executor(&workers);
    let (number, (mut control, _ends)) = add(&workers, 1);
    let error = run(&executor, text(""), Some(Instant::now())).expect_err("nobody answers");
    let expected = "DEADLINE_EXCEEDED: the worker of m/1 did not answer in time, and was restarted";
    // The deadline may already be over when a slot is looked for.
    if error.to_string() == expected {
        assert_eq!(workers.replacement_reason(number).as_deref(), Some("hung, and was killed"));
        assert!(is_disconnected(&mut control));
    }
    let error = run(&executor, text(""), Some(Instant::now() + Duration::from_millis(50))).expect_err("nobody answers");
    assert_eq!(error.code, Code::DeadlineExceeded);
}

/// Answers the first request with these bytes; the error of the request, and whether the process is to be replaced.
fn answered_with(answer: Vec<u8>) -> (ServingError, Option<String>) {
    let workers = Workers::new("m/1");
    let executor = executor(&workers);
    let (number, (_control, ends)) = add(&workers, 1);
    let (sender, asked): (_, Receiver<()>) = channel();
    std::thread::spawn(move || {
        let mut end = &ends[0];
        end.read_exact(&mut [0; 4]).expect("a request is sent");
        end.write_all(&answer).expect("it is received");
        asked.recv().expect_err("the test has ended");
    });
    let inputs = vec![bytes(100_000, 1)];
    let error = run(&executor, inputs, Some(Instant::now() + Duration::from_secs(20))).expect_err("it is damaged");
    let replacement_reason = workers.replacement_reason(number);
    drop(sender);
    (error, replacement_reason)
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_le_bytes()[..], bytes].concat()
}

#[test]
fn damaged_replies_are_errors_and_the_process_is_replaced() {
    // One output of dtype UINT8, with one axis of 100,000, in shared memory that was never made so large.
    let mut outside = vec![0, 0];
    outside.extend(1_u32.to_le_bytes());
    outside.extend(4_i32.to_le_bytes());
    outside.extend(1_u32.to_le_bytes());
    outside.extend(100_000_i64.to_le_bytes());
    outside.push(1);
    let far = u64::MAX - 10;
    let of_region =
        |offset: u64| [outside.clone(), offset.to_le_bytes().to_vec(), 100_000_u64.to_le_bytes().to_vec()].concat();
    for (answer, what) in [
        (framed(&[]), "it ends too early"),
        (vec![0xff; 8], "its length is impossible"),
        ([framed(&[0, 0]), vec![0]].concat(), "its length is impossible"),
        (framed(&[9, 0]), "the status is unknown"),
        (framed(&[0, 0, 0, 0, 0, 0]), "it has another number of outputs"),
        (framed(&[0, 0, 0xff, 0xff, 0xff, 0xff]), "it announces more than it has"),
        (framed(&of_region(0)), "a tensor is not in the shared memory"),
        (framed(&of_region(far)), "a tensor is not in the shared memory"),
    ] {
        let (error, replacement_reason) = answered_with(answer);
        assert_eq!(replacement_reason, Some(format!("sent a damaged message ({what}), and was killed")));
        let text = format!(
            "UNAVAILABLE: the worker of m/1 sent a damaged message ({what}), and was killed during the request"
        );
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn random_replies_never_harm_the_server() {
    let mut state = 12345_u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    for _ in 0..300 {
        let len = random() as usize % 60;
        let mut answer: Vec<u8> =
            (0..len).map(|_| if random() % 3 == 0 { random() as u8 } else { (random() % 4) as u8 }).collect();
        if let Some(status) = answer.first_mut() {
            *status %= 2;
        }
        let (error, _) = answered_with(framed(&answer));
        assert_ne!(error.code, Code::DeadlineExceeded);
    }
}

#[test]
fn a_process_that_must_be_replaced_gets_no_further_request() {
    let workers = Workers::new("m/1");
    let executor = executor(&workers);
    let (number, (_control, ends)) = add(&workers, 3);
    std::thread::spawn(move || {
        let mut end = &ends[0];
        end.read_exact(&mut [0; 4]).expect("a request is sent");
        end.write_all(&framed(&[9, 9])).expect("it is received");
        // The other slots answer no request.
        end.read_to_end(&mut Vec::new()).expect("the server closes the connection");
    });
    let deadline = || Some(Instant::now() + Duration::from_secs(60));
    run(&executor, text(""), deadline()).expect_err("the answer is damaged");
    let start = Instant::now();
    let error = run(&executor, text(""), deadline()).expect_err("there is no other process");
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.text().contains("the last one sent a damaged message"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(30));
    let report = workers.remove(number, "was killed by SIGKILL");
    assert!(report.was_busy);
    assert_eq!(workers.replacement_reason(number), None);
}

#[test]
fn closing_closes_every_connection() {
    let workers = Workers::new("m/1");
    let (_, (mut control, ends)) = add(&workers, 2);
    workers.close();
    assert!(is_disconnected(&mut control));
    for mut end in ends {
        assert!(matches!(end.read(&mut [0]), Ok(0)), "a worker waits for it");
    }
}

#[test]
fn a_free_slot_goes_to_a_waiting_request_while_another_waits_for_the_exit_of_its_worker() {
    let workers = Workers::new("m/1");
    let executor = executor(&workers);
    let (_ended, (mut control, ends)) = add(&workers, 1);
    let (_, (_other_control, other_ends)) = add(&workers, 1);
    for end in other_ends {
        std::thread::spawn(move || serve(&Echo, end.into()));
    }
    std::thread::scope(|scope| {
        let failing = scope.spawn(|| run(&executor, text(""), None));
        (&ends[0]).read_exact(&mut [0; 4]).expect("a request is sent");
        let sleeping = scope.spawn(|| run(&executor, text("sleep"), None));
        std::thread::sleep(Duration::from_millis(50));
        drop(ends);
        assert!(is_disconnected(&mut control));
        std::thread::sleep(Duration::from_millis(50));
        // The failed request waits for the description of the exit, which is not known for two seconds.
        let start = Instant::now();
        run(&executor, text(""), None).expect("the other worker echoes");
        assert!(start.elapsed() < Duration::from_secs(1), "the free slot was not passed on");
        sleeping.join().expect("no panic").expect("it echoes");
        failing.join().expect("no panic").expect_err("its worker has ended");
    });
}
