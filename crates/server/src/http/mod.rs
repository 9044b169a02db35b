//! HTTP on sockets: from a connection to a request with its route, and from an answer to bytes.
//!
//! Nothing here knows models, codecs or the protocols: a [`listener::Handler`] answers requests.

pub mod access;
pub(crate) mod activity;
pub mod body;
pub(crate) mod body_memory;
pub mod http2;
pub mod listener;
pub(crate) mod page;
pub mod router;
pub mod tls;
