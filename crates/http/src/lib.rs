//! HTTP on sockets: connections, requests and answers as bytes.
//!
//! The crate is independent of models, codecs and protocols: a [`listener::Handler`] answers requests.

#![forbid(unsafe_code)]
#![allow(clippy::missing_panics_doc, reason = "the expectations hold by construction")]

pub mod activity;
pub mod body;
pub mod body_memory;
pub mod http2;
pub mod listener;
pub mod page;
pub mod tls;
