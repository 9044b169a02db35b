//! The throughput of a model of a native runtime in rows per second: batches made by hand, in a bare loop over the C
//! functions of its library.
//!
//! Prints one JSON object for each combination of batch size and number of threads, with the first numbers that the
//! model computes.

use std::path::PathBuf;
use std::sync::Barrier;
use std::time::Duration;

use clap::Parser;
use servable_benchmarks::bare::{self, Kind, Model, Result};
use servable_benchmarks::rate::Count;

/// Runs a model that takes a matrix of floats, of any number of rows.
#[derive(Parser)]
struct Arguments {
    /// The runtime.
    #[arg(long)]
    kind: Kind,
    /// Its library.
    #[arg(long)]
    library: PathBuf,
    /// The file of the model.
    #[arg(long)]
    model: PathBuf,
    /// A file with a row of the input: floats, little-endian.
    #[arg(long)]
    row: PathBuf,
    /// How many numbers of the answer are printed.
    #[arg(long, default_value_t = 1)]
    numbers: usize,
    /// The rows of a batch.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    sizes: Vec<usize>,
    /// The number of threads that run batches.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// The number of threads for one batch.
    #[arg(long, default_value_t = 1)]
    intra_op_threads: usize,
    /// The duration of the measurement of each combination.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let row = std::fs::read(&arguments.row)?;
    let row: Vec<f32> = row.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    let model = bare::load(arguments.kind, &arguments.library, &arguments.model, &row, arguments.intra_op_threads)?;
    for &size in &arguments.sizes {
        let mut calls = model.calls(size)?;
        calls.run()?;
        let answer = calls.answer(arguments.numbers);
        drop(calls);
        println!(
            r#"{{"threads": {}, "size": {size}, {}, "answer": {answer:?}}}"#,
            arguments.threads,
            arguments.sample(&*model, size)
        );
    }
    Ok(())
}

impl Arguments {
    fn sample(&self, model: &dyn Model, size: usize) -> String {
        let (count, ready) = (Count::default(), Barrier::new(self.threads + 1));
        std::thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(|| {
                    let mut calls = model.calls(size).expect("the model takes the batch");
                    calls.run().expect("the model takes the batch");
                    ready.wait();
                    while !count.is_over() {
                        calls.run().expect("the model takes the batch");
                        count.ran(size);
                    }
                });
            }
            ready.wait();
            count.sample(Duration::from_secs_f64(self.seconds)).members()
        })
    }
}
