//! gRPC over HTTP/2, for every service: framing, compression, streams of messages.

pub(crate) mod encoding;
pub(crate) mod framing;
pub(crate) mod stream;

pub(crate) use framing::new_message;
