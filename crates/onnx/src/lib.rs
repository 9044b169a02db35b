//! ONNX Runtime's C API, loaded at run time from the library of an installed wheel, behind
//! [`servable_model::executor`].
//!
//! [`Runtime::open`] loads the library and starts what all models share. [`Runtime::load`] makes a [`Session`], which is
//! an [`Executor`](servable_model::executor::Executor). Nothing is linked: a process without ONNX Runtime starts, and
//! gets an [`OpenError`] that names the missing file. The crate knows neither servers nor Python.
//!
//! The modules, from the inside out:
//!
//! - `api`: the table of C functions.
//! - `status`, `value`: conversions between objects of the C API and of Rust.
//! - `deadline_timer`: the thread that terminates runs at their deadline.
//! - `threads`: the threads of sessions.
//! - `declared`: the inputs and outputs of a session.
//! - `model_file`: the parts of a model file that the C API does not tell.
//! - `session`, `runtime`: the public interface.

#[cfg(not(target_endian = "little"))]
compile_error!("tensors are handed over as little-endian memory");

mod api;
mod deadline_timer;
mod declared;
mod model_file;
mod runtime;
mod session;
mod status;
mod threads;
mod value;

pub use runtime::{LoadOptions, Optimization, Provider, Runtime, Threads};
pub use servable_native::OpenError;
pub use session::Session;
