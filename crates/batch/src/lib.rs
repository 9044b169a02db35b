//! The batch scheduler: queues requests, joins and pads them, runs the batch, and splits the outputs.
//!
//! The crate knows tensors, deadlines and a function that runs a batch. The server uses it, and so do programs without
//! a server. A [`Scheduler`] owns a thread pool that any number of [`Queue`]s share. Only requests of one queue share a
//! batch. A request that waits occupies no thread.
//!
//! Answers, errors and the times at which batches run are those of TensorFlow Serving (`docs/spec/batching.md`), with
//! two differences. Requests with different shapes do not fail each other. A cancelled request is dropped before its
//! batch runs.

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
