//! Messages of gRPC on their way through HTTP/2, for every service that is called over it: framing, compression, streams.

pub(crate) mod encoding;
pub(crate) mod framing;
pub(crate) mod stream;

pub(crate) use framing::new_message;
