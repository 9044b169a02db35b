//! The overhead of the batch scheduler, with an empty batch function and many producers. The comparison is a bounded
//! channel with the same requests and responses.

use std::error::Error;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use clap::Parser;
use servable_benchmarks::cpu_time;
use servable_batch::{BatchingOptions, PoolOptions, Scheduler};
use servable_model::call::Call;
use servable_model::error::ServingError;
use servable_model::executor::RunOptions;
use servable_model::tensor::{Buffer, DType, Tensor};
use tokio::sync::oneshot;

/// Prints the CPU microseconds of a request through the scheduler, and through a channel with and without responses.
#[derive(Parser)]
struct Arguments {
    /// The number of producer threads.
    #[arg(long, default_value_t = 16)]
    producers: usize,
    /// The number of requests of each producer.
    #[arg(long, default_value_t = 100_000)]
    requests: usize,
    /// The number of concurrent requests of each producer.
    #[arg(long, default_value_t = 32)]
    window: usize,
    /// The number of batch threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Whether producers run batches when the scheduler gives them the lead.
    #[arg(long)]
    leads: bool,
}

/// The capacity of the queue and of the channel, in rows.
const ROOM: usize = 10_000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    println!("{:.3}", arguments.measure(scheduler)?);
    println!("{:.3}", arguments.measure(answering_channel)?);
    println!("{:.3}", arguments.measure(channel)?);
    Ok(())
}

impl Arguments {
    /// The CPU microseconds for each request of `work`, in its second run.
    fn measure<E>(&self, work: impl Fn(&Self) -> Result<(), E>) -> Result<f64, E> {
        work(self)?;
        let before = cpu_time();
        work(self)?;
        let spent = cpu_time().saturating_sub(before);
        Ok(spent.as_secs_f64() * 1e6 / (self.producers * self.requests) as f64)
    }

    /// Runs all producers, window by window. `receive` waits for the result of `send`.
    fn produce<T>(&self, send: impl Fn(Vec<Tensor>) -> T + Sync, receive: impl Fn(T) + Sync) {
        let input = Tensor::from_numbers(DType::FLOAT, vec![1], Buffer::Shared(Bytes::from_static(&[0; 4])));
        std::thread::scope(|scope| {
            for _ in 0..self.producers {
                scope.spawn(|| {
                    for _ in 0..self.requests / self.window {
                        let sent: Vec<T> = (0..self.window).map(|_| send(vec![input.clone()])).collect();
                        sent.into_iter().for_each(&receive);
                    }
                });
            }
        });
    }
}

fn scheduler(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let pool = PoolOptions { num_batch_threads: arguments.threads, ..PoolOptions::default() };
    let options = BatchingOptions { max_enqueued_batches: ROOM / 1000, ..BatchingOptions::default() };
    let scheduler = Scheduler::new(&pool)?;
    // Each response is a row of this tensor, as with a model.
    let run = |inputs: Vec<Tensor>, _: &RunOptions| Ok::<_, ServingError>(inputs);
    let queue = Arc::new(scheduler.queue(options, run)?);
    let submit = |inputs| {
        if !arguments.leads {
            return queue.submit(inputs, Call::default());
        }
        let (ticket, lead) = queue.submit_or_lead(inputs, Call::default())?;
        if let Some(lead) = lead {
            std::thread::yield_now();
            lead.run();
        }
        Ok(ticket)
    };
    arguments.produce(
        |inputs| submit(inputs).expect("the windows are smaller than the queue"),
        |ticket| drop(ticket.wait().expect("the batch function does not fail")),
    );
    Ok(())
}

/// Each request has a channel for its response, which one thread sends.
fn answering_channel(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let (sender, receiver) = sync_channel::<(Vec<Tensor>, oneshot::Sender<Vec<Tensor>>)>(ROOM);
    let consumer = std::thread::spawn(move || {
        while let Ok((inputs, reply)) = receiver.recv() {
            drop(reply.send(inputs));
        }
    });
    arguments.produce(
        |inputs| {
            let (reply, answer) = oneshot::channel();
            sender.send((inputs, reply)).expect("the consumer lives");
            answer
        },
        |answer| drop(answer.blocking_recv().expect("the consumer answers")),
    );
    drop(sender);
    consumer.join().map_err(|_| "the consumer panicked")?;
    Ok(())
}

/// Requests are received and dropped.
fn channel(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let (sender, receiver) = sync_channel::<Vec<Tensor>>(ROOM);
    let consumer = std::thread::spawn(move || receiver.into_iter().for_each(drop));
    arguments.produce(|inputs| sender.send(inputs).expect("the consumer lives"), |()| ());
    drop(sender);
    consumer.join().map_err(|_| "the consumer panicked")?;
    Ok(())
}
