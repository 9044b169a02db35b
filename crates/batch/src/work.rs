//! One batch on the thread that runs it: joins its requests, calls the batch function, splits what comes out; after a
//! failure, finds the requests that cause it.

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

    /// Whether a run has no effects but its outputs, so that the requests of a batch that failed may be run again.
    fn is_repeatable(&self) -> bool {
        false
    }
}

impl<F: Fn(Vec<Tensor>, &RunOptions) -> Result<Vec<Tensor>> + Send + Sync + 'static> RunBatch for F {
    fn run(&self, inputs: Vec<Tensor>, options: &RunOptions) -> Result<Vec<Tensor>> {
        self(inputs, options)
    }
}

/// A batch function that says itself whether it may be repeated.
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

/// A batch that has been run, and whose callers wait for what is in it.
#[must_use = "the callers wait for their answers"]
pub(super) struct Ran {
    /// How many requests were run.
    count: usize,
    /// Those that have no answer yet.
    tasks: Vec<Task>,
    outcome: Outcome,
}

/// The outputs of each request, or why there are none.
type Outcome = Result<Vec<Vec<Tensor>>, Failure>;

impl Work {
    /// Runs the batch, without the requests that nobody wants any more.
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
    /// Answers each request that has no answer yet; says how many were run.
    pub(super) fn answer(self) -> usize {
        match self.outcome {
            Ok(answers) => self.tasks.into_iter().zip(answers).for_each(|(task, answer)| task.answer(Ok(answer))),
            Err(failure) => self.tasks.into_iter().for_each(|task| failure.tell(task)),
        }
        self.count
    }
}

/// Joins requests, runs them once, and splits what comes out.
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

/// Why a batch has no outputs.
struct Failure {
    error: ServingError,
    /// Whether the run itself failed: outputs that cannot be split are the model's doing, whatever the requests are.
    is_of_run: bool,
    /// The rows that were run.
    rows: usize,
}

impl Failure {
    /// Whether what one of the requests holds may be the reason.
    ///
    /// These are the codes with which kernels and functions refuse values. The others tell of time, memory, load and the
    /// end of a version, which smaller batches do not mend, and which more runs would make worse.
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

    /// Answers a request with the error. A text about values may name shapes, which are those of the batch: it is told
    /// those of its own beside them.
    fn tell(&self, task: Task) {
        let mut error = self.error.clone();
        if self.is_of_a_request() && self.rows != task.rows {
            let shapes: Vec<String> = task.inputs.iter().map(|input| shape_text(input.shape())).collect();
            let (rows, shapes) = (self.rows, shapes.join(", "));
            error.message.extend(format!(" (in a batch of {rows} rows; sent with shape {shapes})").bytes());
        }
        task.answer(Err(error));
    }
}

/// Runs the requests of a failed batch again in smaller ones, until each has outputs or an error of its own.
///
/// Of n requests, at most 2n - 2 batches are run, each of them within the deadlines of its requests; none of more rows
/// than half of the requests before it had.
struct Isolation<'a> {
    options: &'a BatchingOptions,
    run: &'a dyn RunBatch,
    statistics: &'a Statistics,
}

impl Isolation<'_> {
    /// Runs the halves of a batch of several requests that fail together.
    fn split(&self, mut tasks: Vec<Task>) {
        let right = tasks.split_off(tasks.len() / 2);
        let has_left_failed = self.run(tasks);
        if has_left_failed || right.len() == 1 {
            self.run(right);
        } else {
            // The reason is in this half, which need not be run to know that.
            self.split(right);
        }
    }

    /// Runs requests, and their halves where they fail; says whether they did, or may.
    fn run(&self, tasks: Vec<Task>) -> bool {
        let now = Instant::now();
        let (cancelled, mut tasks): (Vec<Task>, Vec<Task>) = tasks.into_iter().partition(|task| task.is_cancelled(now));
        let is_complete = cancelled.is_empty();
        // Those who waited for them have been told.
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
                        failure.tell(task);
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
