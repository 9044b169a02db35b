//! Times bags and the search of one vector: `cargo run --release -p servable-embeddings --example measure TABLE.npy`.
//!
//! The table has 100,000 rows of 128 float32 numbers. Both sides of a ratio run alternately, and the best counts.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use servable_embeddings::{Combiner, Metric, Options, open};
use servable_model::executor::{Executor, RunOptions};
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, DType, Tensor};

const WIDTH: usize = 128;
const ROWS: usize = 100_000;
const BAGS: usize = 64;
const MEMBERS: usize = 50;

fn tensor(dtype: DType, shape: &[i64], bytes: &[u8]) -> Tensor {
    let mut buffer = AlignedBytes::new(ALIGNMENT);
    buffer.extend_from_slice(bytes);
    Tensor::from_numbers(dtype, shape.to_vec(), Buffer::Owned(buffer))
}

fn integers(shape: &[i64], numbers: &[i64]) -> Tensor {
    tensor(DType::INT64, shape, &numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>())
}

fn timed(best: &mut Duration, run: impl FnOnce()) {
    let start = Instant::now();
    run();
    *best = (*best).min(start.elapsed());
}

fn main() {
    let path = std::env::args().nth(1).expect("the path of a table");
    let options = Options { combiner: Combiner::Sum, metric: Metric::Dot, ..Options::default() };
    let loaded = open(Path::new(&path), None, &options).expect("a table");
    let file = std::fs::read(&path).expect("a table");
    let start = file.len() - ROWS * WIDTH * size_of::<f32>();
    let table: Vec<f32> = file[start..].as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    let run = |name: &str, inputs: Vec<Tensor>| {
        let answer = loaded.executor.run(&loaded.signatures[name], inputs, &[0], &RunOptions::default());
        black_box(answer.expect("an answer"));
    };

    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % ROWS as u64) as i64
    };
    let lengths = integers(&[BAGS as i64], &[MEMBERS as i64; BAGS]);
    let (mut bag, mut loop_) = (Duration::MAX, Duration::MAX);
    for _ in 0..300 {
        let ids: Vec<i64> = (0..BAGS * MEMBERS).map(|_| next()).collect();
        timed(&mut loop_, || {
            let mut sums = vec![0.0_f32; BAGS * WIDTH];
            for (ids, sum) in ids.chunks(MEMBERS).zip(sums.chunks_mut(WIDTH)) {
                for &id in ids {
                    let row = &table[id as usize * WIDTH..][..WIDTH];
                    sum.iter_mut().zip(row).for_each(|(sum, number)| *sum += number);
                }
            }
            black_box(sums);
        });
        let inputs = vec![integers(&[BAGS as i64, MEMBERS as i64], &ids), lengths.clone()];
        timed(&mut bag, || run("bag", inputs));
    }
    let ratio = loop_.as_secs_f64() / bag.as_secs_f64();
    println!("bag of {BAGS} × {MEMBERS}: {bag:.1?}, plain loop {loop_:.1?}: {ratio:.2} × its rate");

    let vector = tensor(DType::FLOAT, &[1, WIDTH as i64], &file[start..][..WIDTH * size_of::<f32>()]);
    let mut nearest = Duration::MAX;
    for _ in 0..60 {
        timed(&mut nearest, || run("nearest", vec![vector.clone()]));
    }
    println!("nearest of {ROWS}: {nearest:.1?}");
}
