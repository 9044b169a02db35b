//! Runs: errors, deadlines, arithmetic, threads, and memory over time.

mod support;

use std::time::{Duration, Instant};

use servable_model::error::Code;
use servable_model::executor::{Executor, RunOptions};
use servable_model::signature::Signature;
use servable_model::tensor::DType;
use servable_tensorflow::Session;
use support::{
    Installation, floats, floats_of, half_plus_two_signature, installation, int64s, int64s_of, ints, options, run,
    signature, texts, texts_of,
};

#[test]
fn an_operation_that_fails_says_why_and_where() {
    let Some(installed) = installation() else { return };
    let session = installed.session("failing");
    let signature = signature(&[("index", "index:0", DType::INT32)], &[("found", "look_up:0", DType::FLOAT)]);
    let error = run(&session, &signature, vec![ints(&[1], &[5])]).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    assert_eq!(error.text(), "indices[0] = 5 is not in [0, 3)\n\t [[{{node look_up}}]]");
    assert_eq!(floats_of(&run(&session, &signature, vec![ints(&[1], &[2])]).unwrap()[0]), [3.0]);
}

#[test]
fn a_signature_that_does_not_fit_its_graph_is_an_error() {
    let Some(installed) = installation() else { return };
    let session = installed.half_plus_two(true);
    let missing = "Tensor nowhere:0, specified in either feed_devices or fetch_devices was not found in the Graph";
    for (input, output, code, text) in [
        ("nowhere:0", "y:0", Code::InvalidArgument, missing),
        ("x:0", "nowhere", Code::InvalidArgument, missing),
        ("x:0", "y:7", Code::OutOfRange, "Node 'y' (type: 'AddV2', num of outputs: 1) does not have output 7"),
        ("x:0", "x:0", Code::InvalidArgument, "x:0 is both fed and fetched."),
    ] {
        let signature = signature(&[("x", input, DType::FLOAT)], &[("y", output, DType::FLOAT)]);
        let error = run(&session, &signature, vec![floats(&[1], &[1.0])]).unwrap_err();
        assert_eq!((error.code, &*error.text()), (code, text));
    }
}

/// The loop model, in the caller's thread or in the pool.
fn steps(installed: &Installation, run_in_caller_thread: bool) -> (Session, Signature) {
    let loaded = installed.runtime.load_saved_model(&installed.model("steps"), &options(run_in_caller_thread));
    let signature = signature(
        &[("steps", "serving_default_steps:0", DType::INT64)],
        &[("taken", "PartitionedCall:0", DType::INT64)],
    );
    (loaded.unwrap().session, signature)
}

#[test]
fn a_long_loop_needs_no_deep_stack() {
    let Some(installed) = installation() else { return };
    for run_in_caller_thread in [true, false] {
        let (session, signature) = steps(installed, run_in_caller_thread);
        let count = move || int64s_of(&run(&session, &signature, vec![int64s(&[], &[30_000])]).unwrap()[0]);
        let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(count).unwrap();
        assert_eq!(thread.join().unwrap(), [30_000]);
    }
}

#[test]
fn a_deadline_ends_a_loop_wherever_runs_are_done() {
    let Some(installed) = installation() else { return };
    for run_in_caller_thread in [true, false] {
        let (session, signature) = steps(installed, run_in_caller_thread);
        let start = Instant::now();
        let options = RunOptions { deadline: Some(start + Duration::from_millis(100)) };
        let error = session.run(&signature, vec![int64s(&[], &[i64::MAX])], &[0], &options).unwrap_err();
        assert_eq!((error.code, &*error.text()), (Code::DeadlineExceeded, "Timed out waiting for notification"));
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
}

#[test]
fn graphs_that_may_loop_or_wait_have_dedicated_threads() {
    let Some(installed) = installation() else { return };
    for run_in_caller_thread in [true, false] {
        assert!(installed.half_plus_two(run_in_caller_thread).own_threads().is_none());
        assert!(steps(installed, run_in_caller_thread).0.own_threads().is_some());
        assert!(installed.session("waiting").own_threads().is_some());
    }
}

#[test]
fn a_deadline_that_has_passed_is_reported_at_once() {
    let Some(installed) = installation() else { return };
    for run_in_caller_thread in [true, false] {
        let (session, signature) = steps(installed, run_in_caller_thread);
        let options = RunOptions { deadline: Some(Instant::now()) };
        let error = session.run(&signature, vec![int64s(&[], &[i64::MAX])], &[0], &options).unwrap_err();
        assert_eq!(error.code, Code::DeadlineExceeded);
    }
}

#[test]
fn subnormal_numbers_are_zero_in_both_kinds_of_thread() {
    let Some(installed) = installation() else { return };
    let signature = signature(&[("x", "x:0", DType::FLOAT), ("y", "y:0", DType::FLOAT)], &[("z", "z:0", DType::FLOAT)]);
    for run_in_caller_thread in [true, false] {
        let loaded = installed.runtime.load_saved_model(&installed.model("product"), &options(run_in_caller_thread));
        let (x, y) = (floats(&[3], &[1e-40, 1e-30, 1e-30]), floats(&[3], &[1.0, 1e-10, 1.0]));
        let answer = run(&loaded.unwrap().session, &signature, vec![x, y]).unwrap();
        assert_eq!(floats_of(&answer[0]), [0.0, 0.0, 1e-30]);
    }
    let session = installed.session("dtypes");
    let identity = support::signature(&[("x", "float32_x:0", DType::FLOAT)], &[("y", "float32_y:0", DType::FLOAT)]);
    assert_eq!(floats_of(&run(&session, &identity, vec![floats(&[1], &[1e-40])]).unwrap()[0]), [1e-40]);
}

#[test]
fn eight_threads_run_one_session() {
    let Some(installed) = installation() else { return };
    for run_in_caller_thread in [true, false] {
        let numbers = installed.half_plus_two(run_in_caller_thread);
        let words = installed.session("dtypes");
        let echo = signature(&[("x", "string_x:0", DType::STRING)], &[("y", "string_y:0", DType::STRING)]);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (numbers, words, echo) = (&numbers, &words, &echo);
                scope.spawn(move || {
                    for round in 0..300 {
                        let value = (thread * 1000 + round) as f32;
                        let answer = run(numbers, &half_plus_two_signature(), vec![floats(&[1], &[value])]).unwrap();
                        assert_eq!(floats_of(&answer[0]), [value / 2.0 + 2.0]);
                        let text = format!("thread {thread} {}", "x".repeat(round as usize));
                        let answer = run(words, echo, vec![texts(&[1], &[&text])]).unwrap();
                        assert_eq!(texts_of(&answer[0]), [text.into_bytes()]);
                    }
                });
            }
        });
    }
}

#[test]
fn sessions_come_and_go_while_others_run() {
    let Some(installed) = installation() else { return };
    let serving = installed.half_plus_two(true);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let session = installed.half_plus_two(true);
                    let answer = run(&session, &half_plus_two_signature(), vec![floats(&[1], &[2.0])]).unwrap();
                    assert_eq!(floats_of(&answer[0]), [3.0]);
                }
            });
        }
        for _ in 0..2000 {
            let answer = run(&serving, &half_plus_two_signature(), vec![floats(&[1], &[2.0])]).unwrap();
            assert_eq!(floats_of(&answer[0]), [3.0]);
        }
    });
}

#[test]
fn a_plan_is_made_without_a_run() {
    let Some(installed) = installation() else { return };
    for run_in_caller_thread in [true, false] {
        let (session, endless) = steps(installed, run_in_caller_thread);
        assert!(session.prepare(&endless));
        assert_eq!(int64s_of(&run(&session, &endless, vec![int64s(&[], &[3])]).unwrap()[0]), [3]);
    }
    let session = installed.half_plus_two(true);
    assert!(session.prepare(&half_plus_two_signature()));
    for (inputs, why) in [
        (&[][..], "would run"),
        (&[("x", "x:0", DType::QUINT16)][..], "might run, if the graph takes it"),
        (&[("x", "nowhere:0", DType::FLOAT)][..], "has no plan"),
    ] {
        assert!(!session.prepare(&signature(inputs, &[("y", "y:0", DType::FLOAT)])), "{why}");
    }
}
