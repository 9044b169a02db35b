//! Groups requests into batches: waits, joins, pads, runs, splits.
//!
//! A part of its own, which servers and programs use alike: it knows tensors, the deadline of a call and a function
//! that runs a batch. A [`Scheduler`] owns threads that any number of [`Queue`]s share; requests of one queue may be in
//! one batch. Nothing here holds a thread for a request that waits.
//!
//! What an answer looks like, which errors there are and when a batch is run are those of TensorFlow Serving
//! (`docs/spec/batching.md`), but that requests never fail for each other's shapes, and that one whose caller has given
//! up is dropped before its batch runs.

#![forbid(unsafe_code)]

mod adaptive;
mod assemble;
mod concatenate;
mod extent;
mod low_priority;
mod options;
mod pool;
mod queue;
mod scheduler;
mod slots;
mod statistics;
mod task;
#[cfg(test)]
mod testing;
mod work;

pub use adaptive::{Controller, Decision, Explanation};
pub use options::{BatchingOptions, LowPriorityOptions, MixedPriorityPolicy, PoolOptions};
pub use queue::Closed;
pub use scheduler::{Lead, Queue, Scheduler};
pub use slots::Owner;
pub use statistics::{SizeTally, Standing, Statistics, Tally};
pub use task::{Answer, Ticket, expired};
pub use work::{Repeatable, RunBatch};
