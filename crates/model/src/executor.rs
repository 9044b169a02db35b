//! The interface between the request path and the runtimes of models.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::signature::Signature;
use crate::tensor::Tensor;

/// The name of the runtime that the metrics of TensorFlow Serving cover.
pub const TENSORFLOW: &str = "TF1";

/// The options of one run.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions {
    /// The deadline; `None` for none. An executor that cannot interrupt a run may ignore it.
    pub deadline: Option<Instant>,
}

/// Runs a loaded model.
///
/// The request path guarantees:
///
/// - `signature` is one of the signatures of the published model, or is composed of their tensor specs.
/// - `inputs` holds one tensor for each of `signature.inputs`, in that order. Dtypes and shapes are not checked: the
///   executor reports a mismatch.
/// - `outputs` are distinct positions in `signature.outputs`.
/// - The executor is dropped only after the last call has returned.
///
/// The executor guarantees:
///
/// - `run` may be called from any number of threads concurrently. It blocks until the result is there.
/// - It keeps no reference to the inputs after it returns.
/// - It returns one tensor for each of `outputs`, in that order. If outputs lend memory of a runtime, that is freed
///   with `servable_runtime::release`.
///
/// An executor that wraps another one (that of the crate `tabular`) forwards each method. A method that is added here is
/// added there.
pub trait Executor: Send + Sync + 'static {
    /// Runs one batch.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if the model cannot take an input. Otherwise the code and text that the runtime reports. The
    /// client sees both.
    fn run(
        &self,
        signature: &Signature,
        inputs: Vec<Tensor>,
        outputs: &[usize],
        options: &RunOptions,
    ) -> Result<Vec<Tensor>>;

    /// Checks inputs against the declared specs, if a run would refuse a mismatch.
    ///
    /// It is called before inputs are joined with those of other requests, so that the error describes this request.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if a run would refuse the inputs.
    fn check_inputs(&self, signature: &Signature, inputs: &[Tensor]) -> Result<()> {
        let _ = (signature, inputs);
        Ok(())
    }

    /// Whether runs have no side effects. Only then may the requests of a failed batch be run again.
    fn is_repeatable(&self) -> bool {
        false
    }

    /// The platform in the terms of the Open Inference Protocol: the runtime and the format of the model.
    #[allow(clippy::unnecessary_literal_bound, reason = "an executor may own its name")]
    fn platform(&self) -> &str {
        "custom"
    }

    /// The size of a dedicated thread pool for the runs (a bulkhead); `None` to run on any thread.
    ///
    /// An executor needs one if its runs may block, for example on a lock or on another process. On shared threads they
    /// would delay the requests of other models. Called once, before the first run.
    fn own_threads(&self) -> Option<usize> {
        None
    }

    /// The number of concurrent runs, if it is limited; `None` if it is not. Called once, before the first run.
    ///
    /// Further runs that may be long wait for a permit, without a thread. Short runs and batches may exceed the number,
    /// so `run` may have to wait too.
    fn concurrent_runs(&self) -> Option<usize> {
        None
    }

    /// The maximum duration of a run; `None` for no limit. Called when the servable is constructed.
    ///
    /// It becomes the deadline of runs that have none or a later one. An executor that can cancel runs does so then.
    fn longest_run(&self) -> Option<Duration> {
        None
    }

    /// The runtime, for the label `runtime` of metrics. Called when the servable is constructed.
    #[allow(clippy::unnecessary_literal_bound, reason = "an executor may own its name")]
    fn runtime(&self) -> &str {
        "other"
    }
}
