//! The request path of a model server that speaks TensorFlow Serving's API.
//!
//! Everything that happens once per request lives here: sockets, REST, gRPC, codecs, the serving map and the call
//! into a servable. The crate knows nothing of Python and nothing of TensorFlow; what runs a model stands behind
//! [`executor::Executor`].

#![forbid(unsafe_code)]

pub mod access;
mod activity;
pub mod batch;
pub mod body;
pub mod call;
pub mod codec;
pub mod control_plane;
pub mod distribution;
pub mod error;
pub mod executor;
pub mod grpc;
mod half;
pub mod http2;
pub mod inference;
pub mod listen;
pub mod metrics;
pub mod oip;
pub mod pace;
pub mod placement;
pub mod proto;
pub mod readiness;
mod refusal;
pub mod rest;
mod runs;
pub mod servable;
pub mod service;
pub mod serving_map;
pub mod signature;
pub mod tensor;
mod threads;
pub mod tls;
pub mod traffic;
pub mod warm_up;
