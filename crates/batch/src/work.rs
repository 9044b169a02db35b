//! The execution of one batch: joins its requests, calls the batch function, and splits the outputs.
//!
//! After a failure, bisection isolates the requests that cause it.

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
use servable_model::call;
use servable_model::error::{Code, Result, ServingError, expect_memory};
use servable_model::executor::RunOptions;
use servable_model::tensor::{Tensor, shape_text};

/// The batch function of a queue.
///
/// Called from several threads concurrently, with one tensor for each input of the requests. The deadline is the latest
/// of all requests in the batch; `None` if one of them has none. Every output has as many rows as the inputs. A panic
/// fails the batch with `INTERNAL`.
pub trait RunBatch: Send + Sync + 'static {
    /// Runs one batch.
    ///
    /// # Errors
    ///
    /// The error that every caller of the batch gets.
    fn run(&self, inputs: Vec<Tensor>, options: &RunOptions) -> Result<Vec<Tensor>>;

    /// Whether a run has no side effects. Only then may the requests of a failed batch be run again.
    fn is_repeatable(&self) -> bool {
        false
    }
}

impl<F: Fn(Vec<Tensor>, &RunOptions) -> Result<Vec<Tensor>> + Send + Sync + 'static> RunBatch for F {
    fn run(&self, inputs: Vec<Tensor>, options: &RunOptions) -> Result<Vec<Tensor>> {
        self(inputs, options)
    }
}

/// A batch function with a declaration whether it may be repeated.
pub struct Repeatable<F> {
    /// Runs a batch.
    pub run: F,
    /// See [`RunBatch::is_repeatable`].
    pub is_repeatable: bool,
}

impl<F: RunBatch> RunBatch for Repeatable<F> {
    fn run(&self, inputs: Vec<Tensor>, options: &RunOptions) -> Result<Vec<Tensor>> {
        self.run.run(inputs, options)
    }

    fn is_repeatable(&self) -> bool {
        self.is_repeatable
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

/// A batch that was run, with the answers that are still to be sent.
#[must_use = "the callers wait for their answers"]
pub(super) struct Ran {
    /// The number of requests that were run.
    count: usize,
    /// The requests without an answer.
    tasks: Vec<Task>,
    outcome: Outcome,
}

/// The outputs of each request, or the failure of the batch.
type Outcome = Result<Vec<Vec<Tensor>>, Failure>;

impl Work {
    /// Runs the batch, without its cancelled requests.
    pub(super) fn execute(self, now: Instant) -> Ran {
        let Self { batch, closed, options, run, statistics, adaptive } = self;
        let waits = batch.tasks.iter().map(|task| now.saturating_duration_since(task.arrived));
        let running = statistics.taken(closed, waits);
        let begin = |task: Task| task.begin(now).map_err(|why| statistics.dropped(why)).ok();
        let mut tasks: Vec<Task> = batch.tasks.into_iter().filter_map(begin).collect();
        let count = tasks.len();
        if count == 0 {
            return Ran { count, tasks, outcome: Ok(Vec::new()) };
        }
        let rows = tasks.iter().map(|task| task.rows).sum();
        let padded = options.padded_size(rows);
        let outcome = run_together(&*run, &mut tasks, padded);
        let end = Instant::now();
        let took = end.saturating_duration_since(now);
        if let Some(adaptive) = &adaptive {
            let is_late = |task: &&Task| end.saturating_duration_since(task.arrived) > adaptive.objective;
            let late = tasks.iter().filter(is_late).count();
            adaptive.ran(padded, took, count, late, end);
        }
        let is_repeated = options.rerun_failed_batches && run.is_repeatable() && count > 1;
        running.ended(rows, padded, took, outcome.is_ok());
        if is_repeated && outcome.as_ref().is_err_and(Failure::is_of_a_request) {
            Isolation { options: &options, run: &*run, statistics: &statistics }.split(tasks);
            return Ran { count, tasks: Vec::new(), outcome: Ok(Vec::new()) };
        }
        Ran { count, tasks, outcome }
    }
}

impl Ran {
    /// Answers each request that has no answer yet. Returns the number of requests that were run.
    pub(super) fn answer(self) -> usize {
        match self.outcome {
            Ok(answers) => self.tasks.into_iter().zip(answers).for_each(|(task, answer)| task.answer(Ok(answer))),
            Err(failure) => self.tasks.into_iter().for_each(|task| failure.answer(task)),
        }
        self.count
    }
}

/// Joins requests, runs them as one batch, and splits the outputs.
fn run_together(run: &dyn RunBatch, tasks: &mut [Task], padded: usize) -> Outcome {
    let rows: Vec<usize> = tasks.iter().map(|task| task.rows).collect();
    let deadlines = tasks.iter().map(|task| task.deadline);
    let deadline = deadlines.reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b))).flatten();
    let outputs = catch_unwind(AssertUnwindSafe(|| {
        expect_memory(assemble::joined_bytes(tasks, padded))?;
        let inputs = assemble::join_inputs(tasks, padded);
        run.run(inputs, &RunOptions { deadline })
    }));
    let outputs = outputs.unwrap_or_else(|panic| Err(panicked(&*panic))).map_err(|error| Failure {
        error,
        is_of_run: true,
        rows: padded,
    })?;
    assemble::split_outputs(outputs, &rows, padded).map_err(|error| Failure { error, is_of_run: false, rows: padded })
}

/// The failure of a batch.
struct Failure {
    error: ServingError,
    /// Whether the run itself failed. Outputs that cannot be split are a fault of the model, not of a request.
    is_of_run: bool,
    /// The rows of the batch, padding included.
    rows: usize,
}

impl Failure {
    /// Whether the values of one request may be the cause.
    ///
    /// Kernels and functions refuse values with these codes. The other codes report deadlines, memory, load or an
    /// unloaded version: smaller batches do not help, and more runs would add load.
    fn is_of_a_request(&self) -> bool {
        let is_of_values = match self.error.code {
            Code::InvalidArgument
            | Code::OutOfRange
            | Code::FailedPrecondition
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unimplemented
            | Code::Internal
            | Code::Unknown
            | Code::DataLoss => true,
            Code::Ok
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Unavailable
            | Code::Unauthenticated => false,
        };
        self.is_of_run && is_of_values
    }

    /// Answers a request with the error. A text about values may name shapes of the batch, so the shapes of the request
    /// are added.
    fn answer(&self, task: Task) {
        let mut error = self.error.clone();
        if self.is_of_a_request() && self.rows != task.rows {
            let shapes: Vec<String> = task.inputs.iter().map(|input| shape_text(input.shape())).collect();
            let (rows, shapes) = (self.rows, shapes.join(", "));
            error.message.extend(format!(" (in a batch of {rows} rows; sent with shape {shapes})").bytes());
        }
        task.answer(Err(error));
    }
}

/// Bisection: runs the requests of a failed batch in smaller batches, until each has outputs or its individual error.
///
/// For n requests, at most 2n - 2 batches are run, each within the deadlines of its requests. Each has at most half of
/// the requests of the batch that it was split from.
struct Isolation<'a> {
    options: &'a BatchingOptions,
    run: &'a dyn RunBatch,
    statistics: &'a Statistics,
}

impl Isolation<'_> {
    /// Runs the two halves of a batch that fails as a whole.
    fn split(&self, mut tasks: Vec<Task>) {
        let right = tasks.split_off(tasks.len() / 2);
        let has_left_failed = self.run(tasks);
        if has_left_failed || right.len() == 1 {
            self.run(right);
        } else {
            // The left half succeeded, so the cause is in this half. It is split without another run.
            self.split(right);
        }
    }

    /// Runs requests, and their halves if they fail. Returns whether the cause may be among them.
    fn run(&self, tasks: Vec<Task>) -> bool {
        let now = Instant::now();
        let (cancelled, mut tasks): (Vec<Task>, Vec<Task>) = tasks.into_iter().partition(|task| task.is_cancelled(now));
        let is_complete = cancelled.is_empty();
        // Their callers have gone away, or have timed out already.
        for task in cancelled {
            task.answer(Err(call::timed_out()));
        }
        if tasks.is_empty() {
            return true;
        }
        let padded = self.options.padded_size(tasks.iter().map(|task| task.rows).sum());
        match run_together(self.run, &mut tasks, padded) {
            Ok(answers) => {
                self.statistics.reran(tasks.len());
                tasks.into_iter().zip(answers).for_each(|(task, answer)| task.answer(Ok(answer)));
                !is_complete
            }
            Err(failure) => {
                self.statistics.reran(0);
                if tasks.len() > 1 && failure.is_of_a_request() {
                    self.split(tasks);
                } else {
                    for task in tasks {
                        failure.answer(task);
                    }
                }
                true
            }
        }
    }
}

fn panicked(panic: &(dyn Any + Send)) -> ServingError {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    ServingError::internal(format!("the batch function panicked: {}", text.unwrap_or("no message")))
}
