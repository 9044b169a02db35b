//! An open-loop load generator: requests are sent at a fixed rate, independent of responses.
//!
//! It uses gRPC on a few connections, round-robin. Latencies count from the sending of a request, separately for
//! answered requests and for those refused because of overload. Results are printed as one JSON object, including how
//! late requests were sent.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::http2::SendRequest;
use servable_benchmarks::client::{AnyError, Connection, Failure, Protocol, read_answer, request};
use tokio::task::LocalSet;

/// Sends one request at a fixed rate, and prints the latencies.
#[derive(Parser)]
struct Arguments {
    /// The server.
    #[arg(long)]
    address: SocketAddr,
    /// The method, such as `/tensorflow.serving.PredictionService/Predict`.
    #[arg(long, default_value = "/tensorflow.serving.PredictionService/Predict")]
    path: String,
    /// A file with the message of the request.
    #[arg(long)]
    body: PathBuf,
    /// The number of requests per second.
    #[arg(long)]
    rate: f64,
    /// The number of connections.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// The duration.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// The duration of the warm-up, which is not counted.
    #[arg(long, default_value_t = 0.5)]
    warm_up_seconds: f64,
}

/// How long to wait for outstanding responses at the end.
const GRACE: Duration = Duration::from_secs(10);

/// The maximum number of errors that are printed.
const DESCRIBED_ERRORS: u64 = 5;

#[derive(Default)]
struct Counts {
    accepted: RefCell<Vec<Duration>>,
    refused: RefCell<Vec<Duration>>,
    lags: RefCell<Vec<Duration>>,
    errors: Cell<u64>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), AnyError> {
    let arguments = Arguments::parse();
    let body = std::fs::read(&arguments.body)?;
    let request = request(Protocol::Grpc, arguments.address, &arguments.path, &body, None)?;
    let counts = Rc::new(Counts::default());
    let tasks = LocalSet::new();
    tasks.run_until(send_all(&arguments, &request, &counts)).await?;
    tokio::time::timeout(GRACE, tasks).await.map_err(|_| "answers are still due; the server has stalled")?;
    counts.report(arguments.seconds - arguments.warm_up_seconds);
    Ok(())
}

async fn send_all(arguments: &Arguments, request: &Request<Full<Bytes>>, counts: &Rc<Counts>) -> Result<(), AnyError> {
    let mut senders = Vec::new();
    for _ in 0..arguments.connections {
        if let Connection::Grpc(sender) = Connection::open(Protocol::Grpc, arguments.address).await? {
            senders.push(sender);
        }
    }
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs_f64(seconds);
    let (counted_from, end) = (after(arguments.warm_up_seconds), after(arguments.seconds));
    let mut sent = 0;
    loop {
        let due = after(f64::from(sent) / arguments.rate);
        if due > end {
            return Ok(());
        }
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        let sender = senders[sent as usize % senders.len()].clone();
        let (request, counts) = (request.clone(), Rc::clone(counts));
        tokio::task::spawn_local(async move {
            let now = Instant::now();
            let outcome = ask(sender, request).await;
            if due >= counted_from {
                counts.lags.borrow_mut().push(now - due);
                counts.count(outcome, now.elapsed());
            }
        });
        sent += 1;
    }
}

async fn ask(mut sender: SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> Result<Bytes, AnyError> {
    sender.ready().await?;
    read_answer(Protocol::Grpc, sender.send_request(request).await?).await
}

impl Counts {
    fn count(&self, outcome: Result<Bytes, AnyError>, took: Duration) {
        match outcome {
            Ok(_) => self.accepted.borrow_mut().push(took),
            Err(error) if error.downcast_ref::<Failure>().is_some_and(|failure| failure.is_refusal) => {
                self.refused.borrow_mut().push(took);
            }
            Err(error) => {
                self.errors.set(self.errors.get() + 1);
                if self.errors.get() <= DESCRIBED_ERRORS {
                    eprintln!("open_load: {error}");
                }
            }
        }
    }

    fn report(&self, seconds: f64) {
        let percentiles = |times: &RefCell<Vec<Duration>>| {
            let mut times = times.take();
            times.sort_unstable();
            let micros =
                |percent: usize| times.get(times.len() * percent / 100).map_or(0.0, |time| time.as_secs_f64() * 1e6);
            format!(
                r#"{{"requests": {}, "p50_micros": {:.1}, "p99_micros": {:.1}, "max_micros": {:.1}}}"#,
                times.len(),
                micros(50),
                micros(99),
                times.last().map_or(0.0, |time| time.as_secs_f64() * 1e6),
            )
        };
        println!(
            r#"{{"seconds": {seconds:.3}, "errors": {}, "accepted": {}, "refused": {}, "lag": {}}}"#,
            self.errors.get(),
            percentiles(&self.accepted),
            percentiles(&self.refused),
            percentiles(&self.lags),
        );
    }
}
