//! The request path of a model server that speaks TensorFlow Serving's API.
//!
//! It contains the routes, the protocols, the serving map and the call of a servable. The crate is independent of
//! Python and TensorFlow: models run behind [`Executor`](servable_model::executor::Executor).

#![forbid(unsafe_code)]

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
