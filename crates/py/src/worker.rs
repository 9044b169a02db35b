//! The loop of a worker process: runs a version that this process has loaded.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use bytes::Bytes;
use servable_model::error::{Code, Result, ServingError};
use servable_model::executor::RunOptions;
use servable_model::signature::Signature;
use servable_model::tensor::Tensor;
use servable_server::serving::servable::Servable;
use servable_worker::{Description, Model};

/// Takes a descriptor over from Python.
pub(crate) fn owned(descriptor: RawFd) -> OwnedFd {
    // SAFETY: by `_core.pyi`, the caller passes open descriptors that it has detached, so there is no other owner.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// What the server needs to know of a version that this process has loaded.
pub(crate) fn describe(servable: &Servable) -> Vec<u8> {
    let executor = servable.executor();
    let description = Description {
        signature_defs: Bytes::clone(servable.signature_defs()),
        platform: executor.platform().to_owned(),
        runtime: executor.runtime().to_owned(),
        is_repeatable: executor.is_repeatable(),
        longest_run: executor.longest_run(),
    };
    description.encode()
}

/// Answers the requests of these slots, the first on the calling thread, until the server closes them.
pub(crate) fn serve(servable: &Arc<Servable>, slots: Vec<RawFd>) -> Result<()> {
    let mut slots = slots.into_iter().map(owned);
    let first = slots.next().ok_or_else(|| ServingError::invalid_argument("there is no slot"))?;
    let started: std::io::Result<Vec<_>> = slots
        .map(|slot| {
            let loaded = Loaded(Arc::clone(servable));
            let thread = std::thread::Builder::new().name("servable-run".to_owned());
            thread.spawn(move || servable_worker::serve(&loaded, slot))
        })
        .collect();
    let started = started.map_err(|error| {
        ServingError::new(Code::ResourceExhausted, format!("the worker cannot start a thread: {error}"))
    })?;
    servable_worker::serve(&Loaded(Arc::clone(servable)), first);
    for thread in started {
        // A thread that panicked has closed its slot, and the server has replaced the process.
        let _ = thread.join();
    }
    Ok(())
}

/// The version in a worker.
struct Loaded(Arc<Servable>);

impl Model for Loaded {
    fn run(
        &self,
        signature: &Signature,
        inputs: Vec<Tensor>,
        outputs: &[usize],
        options: &RunOptions,
    ) -> Result<Vec<Tensor>> {
        self.0.run(signature, inputs, outputs, options)
    }

    fn check_inputs(&self, signature: &Signature, inputs: &[Tensor]) -> Result<()> {
        self.0.check_inputs(signature, inputs)
    }
}
