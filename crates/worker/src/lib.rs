//! Runs in worker processes: the server's executor, the loop of the worker, and what passes between the two.
//!
//! A worker process loads one version and answers on a number of connections, its *slots*. A slot carries one request at
//! a time. The server has a thread inside `Workers::run` for each slot that is in use, and the worker a thread inside
//! [`serve()`] for each slot.
//!
//! | what | passes through |
//! |---|---|
//! | dtypes, shapes, signatures, errors, tensors of a few kilobytes | the socket of the slot, in frames (`message`) |
//! | larger tensors | memory that both processes map (`region`) |
//!
//! **The server does not trust the worker.** A library that crashes may first write anywhere. A frame is private memory
//! once it has been received, and each number in it is checked. Shared memory has nothing but elements of tensors, which
//! may have any value. If a frame is wrong, the process is replaced.
//!
//! Starting and replacing processes is left to the caller. It learns of the end of a process by its *control* socket, which
//! [`Workers`] shuts down if a process must be replaced.
#![deny(unsafe_code)]

mod channel;
mod description;
mod executor;
mod frame;
mod message;
mod region;
mod serve;
mod slot;
mod workers;

pub use description::Description;
pub use executor::WorkerExecutor;
pub use serve::{Model, serve};
pub use workers::{ExitReport, Workers};
