//! The waiting time of requests in the batch scheduler, at a rate at which each is alone in its batch.

use std::error::Error;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use servable_batch::{BatchingOptions, PoolOptions, Scheduler};
use servable_model::call::Call;
use servable_model::error::ServingError;
use servable_model::executor::RunOptions;
use servable_model::tensor::{Buffer, DType, Tensor};

/// Prints the median and the 99th percentile of the waiting time in microseconds, as a JSON object.
#[derive(Parser)]
struct Arguments {
    /// How long a batch that is not full waits.
    #[arg(long, default_value_t = 5000)]
    batch_timeout_micros: u64,
    /// The number of requests per second.
    #[arg(long, default_value_t = 10.0)]
    rate: f64,
    /// The duration.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let scheduler = Scheduler::new(&PoolOptions::default())?;
    let options =
        BatchingOptions { batch_timeout_micros: arguments.batch_timeout_micros, ..BatchingOptions::default() };
    let (begun, begins) = mpsc::channel();
    let queue = scheduler.queue(options, move |inputs: Vec<Tensor>, _: &RunOptions| {
        begun.send(Instant::now()).expect("the receiver outlives the queue");
        Ok::<_, ServingError>(inputs)
    })?;
    let mut waits = Vec::new();
    for _ in 0..(arguments.rate * arguments.seconds) as usize {
        std::thread::sleep(Duration::from_secs_f64(1.0 / arguments.rate));
        let input = Tensor::from_numbers(DType::FLOAT, vec![1], Buffer::Shared(Bytes::from_static(&[0; 4])));
        let sent = Instant::now();
        drop(queue.submit(vec![input], Call::default())?.wait()?);
        waits.push(begins.recv()?.saturating_duration_since(sent));
    }
    waits.sort_unstable();
    let micros = |percent: usize| waits.get(waits.len() * percent / 100).map_or(0.0, |wait| wait.as_secs_f64() * 1e6);
    println!(r#"{{"p50_micros": {:.1}, "p99_micros": {:.1}}}"#, micros(50), micros(99));
    Ok(())
}
