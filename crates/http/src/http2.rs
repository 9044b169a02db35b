//! How connections of HTTP/2 behave: sizes, streams, pings and age, by the names that gRPC has for them.

use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto;

/// Limits and times of HTTP/2.
#[derive(Clone, Copy, Debug)]
pub struct Http2Options {
    /// How many calls may be under way on one connection.
    pub max_concurrent_streams: Option<u32>,
    /// The largest head of a request, in bytes, if that is not to follow from the limits of all heads.
    pub max_header_bytes: Option<u32>,
    /// The largest frame that is taken, in bytes: 16 KiB to 16 MiB.
    pub max_frame_bytes: Option<u32>,
    /// How many bytes of one request may be on their way.
    pub stream_window: u32,
    /// After how long without a sign of life the client is pinged.
    pub keepalive_time: Duration,
    /// How long the client may take to answer that, before the connection is closed.
    pub keepalive_timeout: Duration,
    /// How long a connection may be without a request, if not as long as any.
    pub max_idle: Option<Duration>,
    /// After how long a connection takes no new requests; `None` for never.
    pub max_age: Option<Duration>,
    /// How long its requests may take after that; `None` for as long as they like.
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

/// How much more than one stream a whole connection may have on its way.
const STREAMS_IN_CONNECTION_WINDOW: u32 = 4;

/// The largest window that HTTP/2 has.
const MAX_WINDOW: u32 = i32::MAX as u32;

impl Http2Options {
    /// Has the connections of a builder behave so.
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
