//! Options of HTTP/2 connections: sizes, streams, pings and age, named as in gRPC.

use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto;

/// Limits and times of HTTP/2.
#[derive(Clone, Copy, Debug)]
pub struct Http2Options {
    /// The maximum number of concurrent calls on a connection.
    pub max_concurrent_streams: Option<u32>,
    /// The largest head of a request, in bytes. By default it follows from the limits of all heads.
    pub max_header_bytes: Option<u32>,
    /// The largest accepted frame, in bytes: 16 KiB to 16 MiB.
    pub max_frame_bytes: Option<u32>,
    /// The flow-control window of a request, in bytes.
    pub stream_window: u32,
    /// The time without data after which the client is pinged.
    pub keepalive_time: Duration,
    /// The time limit of the client's answer to a ping. The connection is closed after it.
    pub keepalive_timeout: Duration,
    /// The time limit of a connection without requests, if it differs from that of HTTP/1.1.
    pub max_idle: Option<Duration>,
    /// The age at which a connection accepts no new requests; `None` for never.
    pub max_age: Option<Duration>,
    /// The time limit of its requests after that; `None` for no limit.
    pub max_age_grace: Option<Duration>,
}

impl Default for Http2Options {
    fn default() -> Self {
        Self {
            max_concurrent_streams: None,
            max_header_bytes: None,
            max_frame_bytes: None,
            stream_window: 1 << 20, // large enough for tensors of megabytes to flow without a stall
            keepalive_time: Duration::from_secs(2 * 60 * 60), // as gRPC has it
            keepalive_timeout: Duration::from_secs(20),
            max_idle: None,
            max_age: None,
            max_age_grace: None,
        }
    }
}

/// The ratio of the connection's window to that of a stream.
const STREAMS_IN_CONNECTION_WINDOW: u32 = 4;

/// The largest window of HTTP/2.
const MAX_WINDOW: u32 = i32::MAX as u32;

impl Http2Options {
    /// Applies the options to a builder of connections.
    pub fn apply(&self, builder: &mut auto::Builder<TokioExecutor>) {
        let connection_window = self.stream_window.saturating_mul(STREAMS_IN_CONNECTION_WINDOW).min(MAX_WINDOW);
        let mut http2 = builder.http2();
        http2
            .timer(TokioTimer::new())
            .initial_stream_window_size(self.stream_window.min(MAX_WINDOW))
            .initial_connection_window_size(connection_window)
            .max_frame_size(self.max_frame_bytes)
            .keep_alive_interval(self.keepalive_time)
            .keep_alive_timeout(self.keepalive_timeout);
        if let Some(streams) = self.max_concurrent_streams {
            http2.max_concurrent_streams(streams);
        }
        if let Some(bytes) = self.max_header_bytes {
            http2.max_header_list_size(bytes);
        }
    }
}
