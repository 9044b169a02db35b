//! One batch on the thread that runs it: joins its requests, calls the batch function, splits what comes out.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::adaptive::Adaptive;
use super::assemble;
use super::options::BatchingOptions;
use super::queue::{Batch, Closed};
use super::statistics::Statistics;
use super::task::Task;
use crate::error::{Result, ServingError};
use crate::executor::RunOptions;
use crate::tensor::Tensor;

/// What is done with the batches of a queue.
///
/// Called from several threads at once, with one tensor for each input of the requests. The deadline is that of the most
/// patient caller. Every output has as many rows as the inputs; a panic costs the batch an `INTERNAL`.
pub trait RunBatch: Send + Sync + 'static {
    /// Runs one batch.
    ///
    /// # Errors
    ///
    /// What every caller of the batch gets.
    fn run(&self, inputs: Vec<Tensor>, options: &RunOptions) -> Result<Vec<Tensor>>;
}

impl<F: Fn(Vec<Tensor>, &RunOptions) -> Result<Vec<Tensor>> + Send + Sync + 'static> RunBatch for F {
    fn run(&self, inputs: Vec<Tensor>, options: &RunOptions) -> Result<Vec<Tensor>> {
        self(inputs, options)
    }
}

/// A batch that a thread has taken.
pub(super) struct Work {
    pub(super) batch: Batch,
    pub(super) closed: Closed,
    pub(super) options: Arc<BatchingOptions>,
    pub(super) run: Arc<dyn RunBatch>,
    pub(super) statistics: Arc<Statistics>,
    pub(super) adaptive: Option<Arc<Adaptive>>,
}

/// A batch that has been run, and whose callers wait for what is in it.
#[must_use = "the callers wait for their answers"]
pub(super) struct Ran {
    tasks: Vec<Task>,
    outputs: Result<Vec<Vec<Tensor>>>,
}

impl Work {
    /// Runs the batch, without the requests that nobody wants any more.
    pub(super) fn carry_out(self, now: Instant) -> Ran {
        let waits = self.batch.tasks.iter().map(|task| now.saturating_duration_since(task.arrived));
        let running = self.statistics.taken(self.closed, waits);
        let wanted = |task: Task| task.if_wanted(now).map_err(|why| self.statistics.dropped(why)).ok();
        let mut tasks: Vec<Task> = self.batch.tasks.into_iter().filter_map(wanted).collect();
        let count = tasks.len();
        if count == 0 {
            return Ran { tasks, outputs: Ok(Vec::new()) };
        }
        let rows: Vec<usize> = tasks.iter().map(|task| task.rows).collect();
        let padded = self.options.padded_size(rows.iter().sum());
        let deadlines = tasks.iter().map(|task| task.deadline);
        let deadline = deadlines.reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b))).flatten();
        let outputs = catch_unwind(AssertUnwindSafe(|| {
            let inputs = assemble::join_inputs(&mut tasks, padded);
            let outputs = self.run.run(inputs, &RunOptions { deadline })?;
            assemble::split_outputs(outputs, &rows, padded)
        }));
        let outputs = outputs.unwrap_or_else(|panic| Err(panicked(&*panic)));
        let end = Instant::now();
        let took = end.saturating_duration_since(now);
        running.ended(rows.iter().sum(), padded, took, outputs.is_ok());
        if let Some(adaptive) = &self.adaptive {
            let is_late = |task: &&Task| end.saturating_duration_since(task.arrived) > adaptive.objective;
            let late = tasks.iter().filter(is_late).count();
            adaptive.ran(padded, took, count, late, end);
        }
        Ran { tasks, outputs }
    }
}

impl Ran {
    /// Answers each request; says how many there were.
    pub(super) fn answer(self) -> usize {
        let count = self.tasks.len();
        match self.outputs {
            Ok(answers) => self.tasks.into_iter().zip(answers).for_each(|(task, answer)| task.answer(Ok(answer))),
            Err(error) => self.tasks.into_iter().for_each(|task| task.answer(Err(error.clone()))),
        }
        count
    }
}

fn panicked(panic: &(dyn Any + Send)) -> ServingError {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    ServingError::internal(format!("the batch function panicked: {}", text.unwrap_or("no message")))
}
