//! The public handles: a scheduler, which owns a thread pool, and its queues.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::adaptive::Explanation;
use super::options::{BatchingOptions, PoolOptions};
use super::pool::Pool;
use super::slots::Owner;
use super::statistics::Statistics;
use super::task::{Task, Ticket};
use super::work::RunBatch;
use servable_model::call::Call;
use servable_model::error::{Code, Result};
use servable_model::tensor::Tensor;

/// A thread pool that runs batches.
///
/// Dropping it runs the batches that wait in its queues, and joins the threads.
pub struct Scheduler {
    pool: Arc<Pool>,
    options: Arc<PoolOptions>,
}

impl Scheduler {
    /// A scheduler without queues.
    ///
    /// # Errors
    ///
    /// If the system cannot start a thread.
    pub fn new(options: &PoolOptions) -> io::Result<Self> {
        let pool = Pool::start(options.num_batch_threads.max(1), &options.thread_pool_name)?;
        Ok(Self { pool, options: Arc::new(options.clone()) })
    }

    /// The options of the thread pool.
    pub fn options(&self) -> &PoolOptions {
        &self.options
    }

    /// Adds a queue whose batches are run by `run`.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if the options contradict each other.
    pub fn queue(&self, options: BatchingOptions, run: impl RunBatch) -> Result<Queue> {
        self.queue_of(&Arc::default(), Arc::default(), options, run)
    }

    /// The same for one of several queues of an owner. The queue may continue the statistics of one that was closed.
    ///
    /// # Errors
    ///
    /// As [`Scheduler::queue`].
    pub fn queue_of(
        &self,
        owner: &Arc<Owner>,
        statistics: Arc<Statistics>,
        options: BatchingOptions,
        run: impl RunBatch,
    ) -> Result<Queue> {
        options.check()?;
        let number = self.pool.add(Arc::clone(owner), options, Arc::new(run), Arc::clone(&statistics));
        Ok(Queue { pool: Arc::clone(&self.pool), options: Arc::clone(&self.options), number, statistics })
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.pool.close();
        self.pool.join();
    }
}

/// A queue of requests that may share batches. Dropping it closes it: all waiting batches are ready at once.
pub struct Queue {
    pool: Arc<Pool>,
    options: Arc<PoolOptions>,
    number: usize,
    statistics: Arc<Statistics>,
}

impl Queue {
    /// Puts a request into the queue, without blocking.
    ///
    /// `inputs` holds one tensor for each input of the batch function, always in the same order. Dimension 0 of each is
    /// the batch dimension.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if the inputs have no common dimension 0, or more rows than a batch may have. `UNAVAILABLE`
    /// if the queue is full or closed. Later errors are reported by the ticket.
    pub fn submit(&self, inputs: Vec<Tensor>, call: Call) -> Result<Ticket> {
        self.put(inputs, call, false).map(|(ticket, _)| ticket)
    }

    /// Puts a request into the queue, without blocking. The calling thread must be able to run a batch.
    ///
    /// Handing a batch to a worker thread and back costs more than many runs. If a batch is ready that no other caller
    /// leads, this caller gets the lead. It should poll for further requests first, and then use the lead: requests
    /// that are queued until then join the batch, if they fit.
    ///
    /// # Errors
    ///
    /// As [`Queue::submit`].
    pub fn submit_or_lead(&self, inputs: Vec<Tensor>, call: Call) -> Result<(Ticket, Option<Lead<'_>>)> {
        self.put(inputs, call, true)
    }

    fn put(&self, inputs: Vec<Tensor>, call: Call, can_lead: bool) -> Result<(Ticket, Option<Lead<'_>>)> {
        let now = Instant::now();
        let (task, ticket) = Task::new(inputs, call, now)?;
        match self.pool.submit(self.number, task, can_lead, now) {
            Ok(leads) => Ok((ticket, leads.then(|| Lead { queue: self, since: now }))),
            Err(full) if full.code == Code::Unavailable => {
                self.statistics.refused();
                Err(full.retry_after(self.statistics.time_to_clear(self.options.num_batch_threads)))
            }
            Err(error) => Err(error),
        }
    }

    /// The statistics of the queue. They can be read after the queue was dropped.
    pub fn statistics(&self) -> &Arc<Statistics> {
        &self.statistics
    }

    /// The state of the adaptive controller; `None` without a latency objective.
    pub fn explain(&self) -> Option<Explanation> {
        self.pool.explain(self.number)
    }
}

/// The obligation to run a batch of a queue. Dropping it hands the batch to the worker threads.
#[must_use = "the requests of the queue wait for it"]
pub struct Lead<'a> {
    queue: &'a Queue,
    since: Instant,
}

impl Lead<'_> {
    /// Runs a batch on the calling thread, if a slot is free. Otherwise a worker thread runs it later.
    ///
    /// Returns the number of requests that were run.
    pub fn run(self) -> usize {
        let Self { queue, since } = self;
        std::mem::forget(self);
        queue.pool.lead(queue.number, since)
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.queue.pool.decline_lead(self.queue.number, self.since);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.pool.remove(self.number);
    }
}

#[cfg(test)]
mod tests;
