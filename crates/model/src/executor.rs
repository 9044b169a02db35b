//! The seam between the request path and whatever runs a model.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::signature::Signature;
use crate::tensor::Tensor;

/// The runtime whose runs TensorFlow's own metrics are about.
pub const TENSORFLOW: &str = "TF1";

/// How one run is to be carried out.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions {
    /// When the caller gives up; `None` for never. An executor that cannot interrupt a run may ignore it.
    pub deadline: Option<Instant>,
}

/// Runs a loaded model.
///
/// The request path promises: `signature` is one of those the model was published with (or is composed of their tensor
/// specs); `inputs` holds one tensor for each of `signature.inputs`, in that order, of any dtype and shape (a mismatch
/// is the executor's to report); `outputs` are distinct positions in `signature.outputs`.
///
/// The executor promises: `run` may be called from any number of threads at once; it blocks until the result is there;
/// it keeps no reference to the inputs after it returns; it returns one tensor for each of `outputs`, in that order. Memory
/// of a runtime that outputs lend is given back with `servable_runtime::release`.
/// It is dropped only after the last call has returned.
pub trait Executor: Send + Sync + 'static {
    /// Runs one batch.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` where an input is not what the model can take; otherwise whatever code and text the runtime
    /// reports. The client sees both.
    fn run(
        &self,
        signature: &Signature,
        inputs: Vec<Tensor>,
        outputs: &[usize],
        options: &RunOptions,
    ) -> Result<Vec<Tensor>>;

    /// Compares inputs with what was declared, where a run would do so and refuse them: before they are joined with those
    /// of other requests, so that the error is about what was sent.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if a run would be refused.
    fn check_inputs(&self, signature: &Signature, inputs: &[Tensor]) -> Result<()> {
        let _ = (signature, inputs);
        Ok(())
    }

    /// Whether runs have no effect but their outputs, so that requests of a batch that failed may be run again.
    fn is_repeatable(&self) -> bool {
        false
    }

    /// What runs the model and in which format it came, as the Open Inference Protocol names platforms.
    fn platform(&self) -> &'static str {
        "custom"
    }

    /// How many runs it wants at most at once, on threads that do nothing else; `None` to be run wherever it is quickest.
    ///
    /// For an executor whose runs may wait for something that is not theirs, such as a lock or another process: they
    /// would hold up the requests of other models. Asked once, before the first run.
    fn own_threads(&self) -> Option<usize> {
        None
    }

    /// How long a run may take that has no deadline, or a later one; `None` for any time. Asked when the servable is made.
    ///
    /// It is the deadline of such a run, with the same consequences: an executor that can cancel a run does.
    fn longest_run(&self) -> Option<Duration> {
        None
    }

    /// What runs the model, as the label `runtime` of metrics has it. Asked when the servable is made.
    fn runtime(&self) -> &'static str {
        "other"
    }
}
