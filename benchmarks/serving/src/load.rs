//! Shared by the closed-loop load generators: options and results.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::client::Protocol;
use crate::cpu_time;

/// The request, the server, and the duration.
#[derive(Args)]
pub struct Load {
    /// The protocol.
    #[arg(long)]
    pub protocol: Protocol,
    /// The server.
    #[arg(long)]
    pub address: SocketAddr,
    /// The path of the request, such as `/v1/models/m:predict` or `/tensorflow.serving.PredictionService/Predict`.
    #[arg(long)]
    pub path: String,
    /// A file with the body of the request; for gRPC, the message.
    #[arg(long)]
    body: PathBuf,
    /// A file with the expected body of every response (gRPC: its message).
    #[arg(long)]
    expect: Option<PathBuf>,
    /// The number of connections.
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// The duration.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
}

impl Load {
    /// Reads the body of the request.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn body(&self) -> io::Result<Vec<u8>> {
        std::fs::read(&self.body)
    }

    /// Reads the expected response, if one is given.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn expected(&self) -> io::Result<Option<Vec<u8>>> {
        self.expect.as_ref().map(std::fs::read).transpose()
    }
}

/// Prints the results as one JSON object.
pub fn report(mut latencies: Vec<Duration>, errors: u64, elapsed: Duration) {
    latencies.sort_unstable();
    let micros = |percent: usize| {
        latencies.get(latencies.len() * percent / 100).map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
    };
    println!(
        r#"{{"requests": {}, "errors": {errors}, "seconds": {:.6}, "p50_micros": {:.1}, "p99_micros": {:.1}, "cpu_seconds": {:.3}}}"#,
        latencies.len(),
        elapsed.as_secs_f64(),
        micros(50),
        micros(99),
        cpu_time().as_secs_f64(),
    );
}
