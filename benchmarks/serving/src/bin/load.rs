//! A closed-loop load generator: each connection sends its next request after the response to the last.
//!
//! REST uses HTTP/1.1 with keep-alive, gRPC uses HTTP/2 with one call at a time on each connection. All responses are
//! checked. It uses one thread only, because it shares the machine with the measured server. Results are printed as one
//! JSON object, errors on standard error.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use http::{HeaderName, HeaderValue, Request};
use http_body_util::Full;
use memchr::memmem;
use servable_benchmarks::client::{AnyError, Connection, Protocol, excerpt, parse_header, read_answer, request};
use servable_benchmarks::load::{Load, report};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

/// Repeats one request on a number of connections, and checks every response.
///
/// Ends after the duration or the number of requests, or at SIGTERM, and prints the results.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    load: Load,
    /// A header of every request, as `NAME: VALUE`.
    #[arg(long, value_parser = parse_header)]
    header: Option<(HeaderName, HeaderValue)>,
    /// A file with bytes that every response must contain.
    #[arg(long)]
    expect_part: Option<PathBuf>,
    /// The total number of requests.
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    requests: u64,
    /// The file for the last response.
    #[arg(long)]
    save_answer: Option<PathBuf>,
}

/// How long to wait for outstanding responses at the end.
const GRACE: Duration = Duration::from_secs(10);

/// The back-off before a new connection after an error.
const PAUSE: Duration = Duration::from_millis(10);

/// The maximum number of errors that are printed.
const DESCRIBED_ERRORS: u64 = 5;

/// The state that all connections share.
struct Run {
    protocol: Protocol,
    address: SocketAddr,
    request: Request<Full<Bytes>>,
    expect: Option<Vec<u8>>,
    expect_part: Option<memmem::Finder<'static>>,
    left: Cell<u64>,
    is_over: Cell<bool>,
    latencies: RefCell<Vec<Duration>>,
    errors: Cell<u64>,
    answer: RefCell<Bytes>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), AnyError> {
    let arguments = Arguments::parse();
    let run = Rc::new(Run::new(&arguments)?);
    let mut interrupted = signal(SignalKind::terminate())?;
    let started = Instant::now();
    let tasks = LocalSet::new();
    for _ in 0..arguments.load.connections {
        let run = Rc::clone(&run);
        tasks.spawn_local(async move { run.send_all().await });
    }
    let seconds = Duration::from_secs_f64(arguments.load.seconds);
    tasks
        .run_until(async {
            tokio::select! {
                () = tokio::time::sleep(seconds) => {}
                _ = interrupted.recv() => {}
                () = run.sent() => {}
            }
        })
        .await;
    run.is_over.set(true);
    tokio::time::timeout(GRACE, tasks).await.map_err(|_| "answers are still due; the server has stalled")?;
    if let Some(path) = &arguments.save_answer {
        std::fs::write(path, &*run.answer.borrow())?;
    }
    report(run.latencies.take(), run.errors.get(), started.elapsed());
    Ok(())
}

impl Run {
    fn new(arguments: &Arguments) -> Result<Self, AnyError> {
        let Load { protocol, address, ref path, .. } = arguments.load;
        let part = arguments.expect_part.as_ref().map(std::fs::read).transpose()?;
        Ok(Self {
            protocol,
            address,
            request: request(protocol, address, path, &arguments.load.body()?, arguments.header.as_ref())?,
            expect: arguments.load.expected()?,
            expect_part: part.map(|part| memmem::Finder::new(&part).into_owned()),
            left: Cell::new(arguments.requests),
            is_over: Cell::new(false),
            latencies: RefCell::default(),
            errors: Cell::new(0),
            answer: RefCell::default(),
        })
    }

    /// Waits until all requests are sent.
    async fn sent(&self) {
        while self.left.get() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Takes one of the requests to be sent.
    fn take(&self) -> bool {
        let left = self.left.get();
        let may_send = left > 0 && !self.is_over.get();
        if may_send {
            self.left.set(left - 1);
        }
        may_send
    }

    /// Runs one connection, and reconnects after errors.
    async fn send_all(&self) {
        let mut connection = None;
        while self.take() {
            let started = Instant::now();
            match self.send_one(&mut connection).await {
                Ok(answer) => {
                    self.latencies.borrow_mut().push(started.elapsed());
                    self.answer.replace(answer);
                }
                Err(error) => {
                    let errors = self.errors.get() + 1;
                    self.errors.set(errors);
                    if errors <= DESCRIBED_ERRORS {
                        eprintln!("load: {error}");
                    }
                    connection = None;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn send_one(&self, connection: &mut Option<Connection>) -> Result<Bytes, AnyError> {
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(Connection::open(self.protocol, self.address).await?),
        };
        let answer = read_answer(self.protocol, connection.send(self.request.clone()).await?).await?;
        let is_expected = self.expect.as_ref().is_none_or(|expected| answer == expected);
        let has_part = self.expect_part.as_ref().is_none_or(|part| part.find(&answer).is_some());
        if is_expected && has_part {
            Ok(answer)
        } else {
            Err(format!("unexpected answer: {}", excerpt(&answer)).into())
        }
    }
}
