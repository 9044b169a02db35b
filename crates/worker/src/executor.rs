//! The executor of a version that runs in worker processes.

use std::sync::Arc;
use std::time::Duration;

use servable_model::error::Result;
use servable_model::executor::{Executor, RunOptions};
use servable_model::signature::Signature;
use servable_model::tensor::Tensor;

use crate::description::Description;
use crate::workers::Workers;

/// Runs a version in its worker processes.
pub struct WorkerExecutor {
    /// Its processes.
    pub workers: Arc<Workers>,
    /// What they say of it.
    pub description: Description,
    /// The number of slots of all processes together.
    pub slots: usize,
}

impl Executor for WorkerExecutor {
    fn run(
        &self,
        signature: &Signature,
        inputs: Vec<Tensor>,
        outputs: &[usize],
        options: &RunOptions,
    ) -> Result<Vec<Tensor>> {
        self.workers.run(signature, &inputs, outputs, options.deadline)
    }

    /// Inputs that match the declared specs are not checked further: no executor refuses these.
    fn check_inputs(&self, signature: &Signature, inputs: &[Tensor]) -> Result<()> {
        let fits = |wanted: &[i64], shape: &[i64]| {
            wanted.len() == shape.len() && wanted.iter().zip(shape).all(|(wanted, size)| *wanted < 0 || wanted == size)
        };
        let is_declared = signature.inputs.iter().zip(inputs).all(|(spec, tensor)| {
            spec.dtype == tensor.dtype() && spec.shape.as_ref().is_none_or(|wanted| fits(wanted, tensor.shape()))
        });
        if is_declared { Ok(()) } else { self.workers.check_inputs(signature, inputs) }
    }

    fn is_repeatable(&self) -> bool {
        self.description.is_repeatable
    }

    fn platform(&self) -> &str {
        &self.description.platform
    }

    /// A run waits for another process.
    fn own_threads(&self) -> Option<usize> {
        Some(self.slots)
    }

    fn longest_run(&self) -> Option<Duration> {
        self.description.longest_run
    }

    fn runtime(&self) -> &str {
        &self.description.runtime
    }
}

impl Drop for WorkerExecutor {
    fn drop(&mut self) {
        self.workers.close();
    }
}
