//! The throughput of a model in rows per second, without sockets. Batches are made by hand and run in a bare loop or,
//! with `--clients`, formed by the batch scheduler from single rows.
//!
//! Prints one JSON object for each combination of batch size and number of threads.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use servable_batch::{BatchingOptions, PoolOptions, Queue, Scheduler};
use servable_benchmarks::load_model;
use servable_benchmarks::rate::{Count, Sample};
use servable_model::call::Call;
use servable_model::executor::{Executor, RunOptions};
use servable_model::signature::Signature;
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, DType, Tensor};
use servable_tensorflow::Session;

type AnyError = Box<dyn Error>;

/// Runs a model with one input of floats, of any number of rows.
#[derive(Parser)]
struct Arguments {
    /// The directory of the installed `tensorflow` package.
    #[arg(long)]
    tensorflow: PathBuf,
    /// A version directory.
    #[arg(long)]
    model: PathBuf,
    /// The rows of a batch; with `--clients`, the maximum.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16,32,64,128,256")]
    sizes: Vec<usize>,
    /// The number of batch threads.
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
    /// The number of threads for one operation; 0 for the default of the runtime.
    #[arg(long, default_value_t = 0)]
    intra_op_threads: u8,
    /// The number of callers that send single rows, each the next after the response to the last.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    clients: usize,
    /// With `--clients`: how long a batch that is not full waits; 0 is greedy.
    #[arg(long, default_value_t = 0)]
    batch_timeout_micros: u64,
    /// The duration of the measurement of each combination.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
}

fn main() -> Result<(), AnyError> {
    let arguments = Arguments::parse();
    let (session, signature) = load_model(&arguments.tensorflow, &arguments.model, arguments.intra_op_threads)?;
    let model = Arc::new(Model { session, signature });
    for &threads in &arguments.threads {
        for &size in &arguments.sizes {
            let sample = if arguments.clients == 0 {
                arguments.bare_loop(&model, threads, size)?
            } else {
                arguments.scheduler(&model, threads, size)?
            };
            println!(r#"{{"threads": {threads}, "size": {size}, {}}}"#, sample.members());
        }
    }
    Ok(())
}

/// A model, and its default signature.
struct Model {
    session: Arc<Session>,
    signature: Signature,
}

impl Model {
    fn run(&self, inputs: Vec<Tensor>, options: &RunOptions) -> servable_model::error::Result<Vec<Tensor>> {
        self.session.run(&self.signature, inputs, &[0], options)
    }

    /// A batch of this many rows, in memory that the runtime uses in place.
    fn batch(&self, rows: usize) -> Result<Tensor, AnyError> {
        let [input] = &*self.signature.inputs else { return Err("the model has more than one input".into()) };
        let mut shape = input.shape.clone().ok_or("the rank of the input is not known")?;
        if input.dtype != DType::FLOAT || shape.first() != Some(&-1) || shape[1..].iter().any(|&size| size < 0) {
            return Err(format!("the input is not floats in rows: {:?} {shape:?}", input.dtype).into());
        }
        shape[0] = rows as i64;
        let elements = shape.iter().product::<i64>() as usize;
        let bytes: Vec<u8> =
            (0..elements).flat_map(|index| ((index * 7919 % 1000) as f32 / 1e3).to_le_bytes()).collect();
        let buffer = Buffer::Shared(Bytes::from_owner(AlignedBytes::from_slice(ALIGNMENT, &bytes)));
        Ok(Tensor::from_numbers(DType::FLOAT, shape, buffer))
    }
}

impl Arguments {
    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn bare_loop(&self, model: &Model, threads: usize, size: usize) -> Result<Sample, AnyError> {
        let (count, batch) = (Count::default(), model.batch(size)?);
        // The first run prepares the model, which may take longer than the warm-up.
        model.run(vec![batch.clone()], &RunOptions::default())?;
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while !count.is_over() {
                        model.run(vec![batch.clone()], &RunOptions::default()).expect("the model takes the batch");
                        count.ran(size);
                    }
                });
            }
            Ok(count.sample(self.time()))
        })
    }

    /// Callers are tasks. The number of threads is the default of the server.
    fn scheduler(&self, model: &Arc<Model>, threads: usize, size: usize) -> Result<Sample, AnyError> {
        let scheduler = Scheduler::new(&PoolOptions { num_batch_threads: threads, ..PoolOptions::default() })?;
        let options = BatchingOptions {
            max_batch_size: size,
            batch_timeout_micros: self.batch_timeout_micros,
            max_enqueued_batches: self.clients,
            ..BatchingOptions::default()
        };
        let count = Arc::new(Count::default());
        let (run_model, run_count) = (Arc::clone(model), Arc::clone(&count));
        let queue = Arc::new(scheduler.queue(options, move |inputs: Vec<Tensor>, options: &RunOptions| {
            let rows = inputs[0].shape()[0] as usize;
            let outputs = run_model.run(inputs, options);
            run_count.ran(rows);
            outputs
        })?);
        let row = model.batch(1)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().build()?;
        let callers: Vec<_> = (0..self.clients)
            .map(|_| runtime.spawn(call_again_and_again(Arc::clone(&queue), Arc::clone(&count), row.clone())))
            .collect();
        let sample = count.sample(self.time());
        for caller in callers {
            runtime.block_on(caller)?.map_err(|error| error.to_string())?;
        }
        Ok(sample)
    }
}

async fn call_again_and_again(queue: Arc<Queue>, count: Arc<Count>, row: Tensor) -> servable_model::error::Result<()> {
    while !count.is_over() {
        drop(queue.submit(vec![row.clone()], Call::default())?.await?);
    }
    Ok(())
}
