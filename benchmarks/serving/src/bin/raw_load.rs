//! A closed-loop load generator like `load`, without an HTTP library and with a fraction of its CPU usage.
//!
//! It is for measurements in which the server needs all processors. A failed or unexpected response ends the run.

use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::Parser;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use servable_benchmarks::client::excerpt;
use servable_benchmarks::load::{Load, report};
use servable_benchmarks::raw::Wire;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Repeats one request on a number of connections, one at a time for each caller.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    load: Load,
    /// The number of callers on each connection. More than one requires gRPC.
    #[arg(long, default_value_t = 1)]
    streams: usize,
}

/// Without a response for this time, the server has stalled.
const GRACE: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    let Arguments { load, streams } = Arguments::parse();
    let (body, expected) = (load.body()?, load.expected()?);
    let mut poll = Poll::new()?;
    let mut connections = Vec::new();
    for number in 0..load.connections {
        let wire = Wire::new(load.protocol, load.address, &load.path, &body, streams)?;
        let mut connection = Connection::open(wire, load.address, streams)?;
        poll.registry().register(&mut connection.stream, Token(number), Interest::READABLE)?;
        connections.push(connection);
    }
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(load.seconds);
    for connection in &mut connections {
        (0..streams).for_each(|caller| connection.ask(caller, start));
        connection.send()?;
    }
    let mut latencies = Vec::new();
    let mut waiting = connections.len() * streams;
    let mut events = Events::with_capacity(1024);
    let mut part = vec![0; 1 << 16];
    while waiting > 0 {
        poll.poll(&mut events, Some(GRACE))?;
        if events.is_empty() {
            return Err("answers are still due; the server has stalled".into());
        }
        for event in &events {
            let connection = &mut connections[event.token().0];
            connection.read(&mut part)?;
            while let Some((caller, answer)) = connection.next_answer()? {
                if expected.as_ref().is_some_and(|expected| answer != expected) {
                    return Err(format!("unexpected answer: {}", excerpt(answer)).into());
                }
                let now = Instant::now();
                latencies.push(now - connection.asked[caller]);
                if now < end {
                    connection.ask(caller, now);
                } else {
                    waiting -= 1;
                }
            }
            connection.send()?;
        }
    }
    report(latencies, 0, start.elapsed());
    Ok(())
}

struct Connection {
    stream: TcpStream,
    wire: Wire,
    arrived: Vec<u8>,
    /// The bytes to be sent.
    departing: Vec<u8>,
    /// The time of the last request of each caller.
    asked: Vec<Instant>,
}

impl Connection {
    fn open(wire: Wire, address: SocketAddr, callers: usize) -> Result<Self> {
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let stream = TcpStream::from_std(stream);
        let asked = vec![Instant::now(); callers];
        Ok(Self { stream, wire, arrived: Vec::new(), departing: Vec::new(), asked })
    }

    /// Queues a request.
    fn ask(&mut self, caller: usize, now: Instant) {
        self.asked[caller] = now;
        self.departing.extend_from_slice(self.wire.request(caller));
    }

    /// Sends queued requests. The socket has room for them, because nothing else is in flight.
    fn send(&mut self) -> Result<()> {
        self.stream.write_all(&self.departing)?;
        self.departing.clear();
        Ok(())
    }

    /// Reads all available bytes, part by part.
    fn read(&mut self, part: &mut [u8]) -> Result<()> {
        loop {
            match self.stream.read(part) {
                Ok(0) => return Err("the server has closed the connection".into()),
                Ok(length) => {
                    self.arrived.extend_from_slice(&part[..length]);
                    if length < part.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next complete response, and its caller.
    fn next_answer(&mut self) -> Result<Option<(usize, &[u8])>> {
        self.wire.take(&mut self.arrived, &mut self.departing)
    }
}
