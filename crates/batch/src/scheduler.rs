//! What users of the module hold: a scheduler, which owns threads, and queues.

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

/// A pool of threads that run batches.
///
/// Dropping it runs what waits in its queues, and returns when the threads have ended.
pub struct Scheduler {
    pool: Arc<Pool>,
    options: Arc<PoolOptions>,
}

impl Scheduler {
    /// A scheduler without queues.
    ///
    /// # Errors
    ///
    /// If the system gives it no threads.
    pub fn new(options: &PoolOptions) -> io::Result<Self> {
        let pool = Pool::start(options.num_batch_threads.max(1), &options.thread_pool_name)?;
        Ok(Self { pool, options: Arc::new(options.clone()) })
    }

    /// Its threads.
    pub fn options(&self) -> &PoolOptions {
        &self.options
    }

    /// A queue whose batches are run by `run`.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if the options contradict each other.
    pub fn queue(&self, options: BatchingOptions, run: impl RunBatch) -> Result<Queue> {
        self.queue_of(&Arc::default(), Arc::default(), options, run)
    }

    /// The same for one of several queues of an owner, which may go on with the statistics of another that is gone.
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

/// Requests that may share batches. Dropping it makes what waits in it ready at once.
pub struct Queue {
    pool: Arc<Pool>,
    options: Arc<PoolOptions>,
    number: usize,
    statistics: Arc<Statistics>,
}

impl Queue {
    /// Puts a request into the queue; never waits.
    ///
    /// `inputs` holds one tensor for each input of the batch function, always in the same order; dimension 0 of each is
    /// the batch.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if the inputs have no common dimension 0 or are more rows than a batch takes; `UNAVAILABLE`
    /// if the queue is full or closed. The ticket says what came of the request later.
    pub fn submit(&self, inputs: Vec<Tensor>, call: Call) -> Result<Ticket> {
        self.put(inputs, call, false).map(|(ticket, _)| ticket)
    }

    /// Puts a request into the queue, for a caller that is as good a place to run a batch as any; never waits.
    ///
    /// Handing a batch to a thread and back costs more than many a run. Where a batch could begin at once for which nobody
    /// else is coming, its caller gets the lead instead, and is to use it as soon as it has looked what else has arrived:
    /// what is put into the queue until then, and fits, is in its batch.
    ///
    /// # Errors
    ///
    /// As [`Queue::submit`].
    pub fn submit_or_lead(&self, inputs: Vec<Tensor>, call: Call) -> Result<(Ticket, Option<Lead<'_>>)> {
        self.put(inputs, call, true)
    }

    /// Puts a request into the queue.
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

    /// What it has done, and how it stands; whoever keeps this can read it when the queue is gone.
    pub fn statistics(&self) -> &Arc<Statistics> {
        &self.statistics
    }

    /// How it keeps to its latency objective, and why so; `None` if it has none.
    pub fn explain(&self) -> Option<Explanation> {
        self.pool.explain(self.number)
    }
}

/// The task to run a batch of a queue. Dropping it leaves that to the threads.
#[must_use = "the requests of the queue wait for it"]
pub struct Lead<'a> {
    queue: &'a Queue,
    since: Instant,
}

impl Lead<'_> {
    /// Runs a batch on the calling thread, unless as many are running as may; the threads see to it then.
    ///
    /// Says how many requests it has run.
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
