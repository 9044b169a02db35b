//! Memory over time: runs do not leak, and unloading a model frees its memory.
//!
//! This file has one test, so that no other runs in the same process.
#![cfg(target_os = "linux")]

mod support;

use servable_model::tensor::DType;
use support::{floats, half_plus_two_signature, installation, run, signature, texts, texts_of};

const MIB: isize = 1 << 20;

/// The resident memory of this process in bytes, after the allocator has released free memory.
fn resident() -> usize {
    // SAFETY: takes a number and returns whether memory was released.
    unsafe { libc::malloc_trim(0) };
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// The growth of memory over repetitions of `work`, after a warm-up.
fn growth(rounds: usize, work: impl Fn()) -> isize {
    (0..rounds / 4).for_each(|_| work());
    let before = resident() as isize;
    (0..rounds).for_each(|_| work());
    resident() as isize - before
}

#[test]
fn memory_does_not_grow() {
    let Some(installed) = installation() else { return };

    // 20 strings of 1 kB each way: 10,000 runs would leave 400 MB behind if they were kept, and 2.4 MB if only the
    // arrays were.
    let session = installed.session("dtypes");
    let echo = signature(&[("x", "string_x:0", DType::STRING)], &[("y", "string_y:0", DType::STRING)]);
    let strings = vec![vec![b'x'; 1000]; 20];
    let grown = growth(10_000, || {
        let answer = run(&session, &echo, vec![texts(&[20], &strings)]).unwrap();
        assert_eq!(texts_of(&answer[0]).len(), 20);
    });
    println!("10,000 runs with strings: {grown} bytes");
    assert!(grown < MIB, "{grown}");

    let wrong = vec![vec![b'x'; 1000]; 20];
    let session = installed.half_plus_two(true);
    let grown = growth(10_000, || {
        assert!(run(&session, &half_plus_two_signature(), vec![texts(&[20], &wrong)]).is_err());
        assert!(run(&session, &half_plus_two_signature(), vec![floats(&[256], &[1.0; 256])]).is_ok());
    });
    println!("10,000 runs that fail, and as many that do not: {grown} bytes");
    assert!(grown < MIB, "{grown}");

    // 16 MB of weights a time.
    let product = signature(&[("x", "x:0", DType::FLOAT)], &[("y", "y:0", DType::FLOAT)]);
    let grown = growth(12, || {
        let session = installed.session("large");
        assert!(run(&session, &product, vec![floats(&[1, 2048], &[1.0; 2048])]).is_ok());
    });
    println!("12 loads and unloads of 16 MB: {grown} bytes");
    assert!(grown < 16 * MIB, "{grown}");
}
