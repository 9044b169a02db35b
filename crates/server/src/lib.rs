//! The request path of a model server that speaks TensorFlow Serving's API.
//!
//! Everything that happens once per request lives here: sockets, REST, gRPC, codecs, the serving map and the call
//! into a servable. The crate knows nothing of Python and nothing of TensorFlow; what runs a model stands behind
//! [`executor::Executor`].

#![forbid(unsafe_code)]

pub use servable_codec::proto;
pub use servable_model::{call, distribution, error, executor, inference, signature, tensor};
use servable_runtime as threads;
pub use servable_runtime::placement;
pub use {servable_batch as batch, servable_codec as codec};

pub mod access;
pub mod administration;
pub mod control_plane;
pub mod dispatch;
pub mod metrics;
pub mod protocol;
pub mod router;
mod runs;
pub mod service;
pub mod serving;
pub mod warm_up;
