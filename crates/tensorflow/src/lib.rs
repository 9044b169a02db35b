//! TensorFlow's C API, loaded at run time from the libraries of an installed wheel, behind [`servable_model::executor`].
//!
//! Start with [`Runtime::open`]; it finds the C functions. [`Runtime::load_saved_model`] makes a [`Session`], which is
//! an [`Executor`](servable_model::executor::Executor). Nothing is linked: a process without TensorFlow starts, and gets
//! an [`OpenError`] that says what is missing. The crate knows nothing of servers and nothing of Python.
//!
//! From the inside out: `api` is the table of C functions; `status`, `string` and `tensor` turn the C API's objects
//! into Rust's and back; `denormals` keeps kernels that run in a caller's thread to the arithmetic they have in
//! TensorFlow's own; `termination` tells graphs whose runs end by
//! themselves, and `pools` is where the others run; `background` is where loads run; `session` and `runtime` are what a caller sees.

#[cfg(not(target_endian = "little"))]
compile_error!("tensors and TensorFlow's strings are handed over as little-endian memory");

mod api;
mod background;
mod denormals;
mod pools;
mod runtime;
mod session;
mod status;
mod string;
mod tensor;
mod termination;

pub use api::OpenError;
pub use background::{run_in_background, set_slice};
pub use runtime::{LoadOptions, LoadedModel, Runtime};
pub use session::Session;
