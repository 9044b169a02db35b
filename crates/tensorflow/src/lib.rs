//! TensorFlow's C API, loaded at run time from the libraries of an installed wheel, behind
//! [`servable_model::executor`].
//!
//! [`Runtime::open`] loads the libraries and looks up the C functions. [`Runtime::load_saved_model`] makes a
//! [`Session`], which is an [`Executor`](servable_model::executor::Executor). Nothing is linked: a process without
//! TensorFlow starts, and gets an [`OpenError`] that names the missing file. The crate knows neither servers nor
//! Python.
//!
//! The modules, from the inside out:
//!
//! - `api`: the table of C functions.
//! - `status`, `string`, `tensor`: conversions between objects of the C API and of Rust.
//! - `denormals`: flush-to-zero for kernels that run in a caller's thread.
//! - `devices`: the devices of a session.
//! - `termination`: an analysis that finds graphs whose runs may not terminate.
//! - `pools`: thread pools for the runs of such graphs, which can be cancelled there.
//! - `session`, `runtime`: the public interface.

#[cfg(not(target_endian = "little"))]
compile_error!("tensors and TensorFlow's strings are handed over as little-endian memory");

mod api;
mod denormals;
mod devices;
mod pools;
mod runtime;
mod session;
mod status;
mod string;
mod tensor;
mod termination;

pub use devices::Device;
pub use runtime::{LoadOptions, LoadedModel, Runtime};
pub use servable_native::OpenError;
pub use session::Session;
