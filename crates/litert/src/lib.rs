//! `LiteRT`'s C API, loaded at run time from the library of an installed wheel, behind [`servable_model::executor`].
//!
//! [`Runtime::open`] loads the library. [`Runtime::load`] makes a [`Model`], which is an
//! [`Executor`](servable_model::executor::Executor). The crate knows neither servers nor Python.
//!
//! The modules, from the inside out:
//!
//! - `flatbuffer`, `file`: the contents of a model file, and checks that the runtime omits.
//! - `signatures`: which names denote which tensors.
//! - `api`: the table of C functions.
//! - `memory`, `strings`: tensors in the form that the runtime reads and writes.
//! - `interpreter`, `pool`: compiled models, each for one run at a time.
//! - `split`: large batches as several runs.
//! - `model`, `runtime`: the public interface.

#[cfg(not(target_endian = "little"))]
compile_error!("tensors are handed over as little-endian memory");

mod api;
mod file;
mod flatbuffer;
mod interpreter;
mod memory;
mod model;
mod pool;
mod runtime;
mod signatures;
mod split;
mod strings;

pub use model::Model;
pub use runtime::{LoadOptions, LoadedModel, Runtime, tensor_bytes};
pub use servable_native::OpenError;
pub use signatures::Naming;
