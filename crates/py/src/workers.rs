//! `Workers`: the processes that run one version, for the control plane.

use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use servable_codec::metadata;
use servable_model::error::{Code, ServingError};
use servable_server::serving::servable::Servable;
use servable_worker::{Description, WorkerExecutor, Workers};

use crate::errors;
use crate::servable::PyServable;
use crate::worker::owned;

/// The processes of one version.
#[pyclass(name = "Workers", module = "servable._core", frozen)]
pub(crate) struct PyWorkers {
    workers: Arc<Workers>,
    slots: usize,
    description: Mutex<Option<Description>>,
}

#[pymethods]
impl PyWorkers {
    #[new]
    fn new(name: String, slots: usize) -> Self {
        Self { workers: Workers::new(name), slots, description: Mutex::default() }
    }

    fn add(&self, py: Python<'_>, control: RawFd, slots: Vec<RawFd>, description: &[u8]) -> PyResult<u64> {
        let (control, slots) = (owned(control), slots.into_iter().map(owned).collect());
        let add = || {
            let found = Description::decode(description).map_err(ServingError::internal)?;
            let mut known = self.description.lock().unwrap_or_else(PoisonError::into_inner);
            if known.as_ref().is_some_and(|known| *known != found) {
                let text = "the worker has loaded another model than the one before: the files of the version changed";
                return Err(ServingError::new(Code::FailedPrecondition, text));
            }
            *known = Some(found);
            Ok(self.workers.add(control, slots))
        };
        py.detach(add).map_err(|error| errors::to_python(py, &error))
    }

    fn servable(&self, py: Python<'_>) -> PyResult<PyServable> {
        PyServable::load(py, false, || {
            let description = self.description.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let none = || ServingError::new(Code::FailedPrecondition, "no worker has loaded the version");
            let description = description.ok_or_else(none)?;
            let signatures = metadata::signatures_from_definitions(description.signature_defs.clone())?;
            let executor = WorkerExecutor { workers: Arc::clone(&self.workers), description, slots: self.slots };
            Ok(Servable::new(signatures.by_name, signatures.signature_defs, Box::new(executor)))
        })
    }

    fn replacement_reason(&self, number: u64) -> Option<String> {
        self.workers.replacement_reason(number)
    }

    fn remove(&self, py: Python<'_>, number: u64, how: &str) -> (bool, bool) {
        py.detach(|| {
            let report = self.workers.remove(number, how);
            (report.was_busy, report.has_answered)
        })
    }

    fn refuse(&self, py: Python<'_>, explanation: &str) {
        py.detach(|| self.workers.refuse(explanation));
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.workers.close());
    }
}
