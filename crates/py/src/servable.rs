//! `Servable`: a loaded version, for the control plane.

use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use servable_codec::metadata;
use servable_model::error::{Code, ServingError};
use servable_model::executor::{Executor, RunOptions};
use servable_model::signature::Signature;
use servable_model::tensor::DType;
use servable_native::OpenError;
use servable_server::serving::servable::Servable;
use servable_server::serving::{ApiOptions, arrange_inputs, predict_signature};
use servable_server::warm_up::{self, Record};
use servable_tabular::{Heads, add_heads};

use crate::background::run_maybe_in_background;
use crate::batching::PyBatchThreads;
use crate::buffers::{self, Sent};
use crate::errors;
use crate::options::{BatchingParameters, longest, seconds};
use crate::python_executor::{DeclaredSignature, PythonExecutor};
use crate::worker;

/// The reference of Python to a loaded version; empty once it is unloaded.
#[pyclass(name = "Servable", module = "servable._core", frozen)]
pub(crate) struct PyServable {
    servable: Mutex<Option<Arc<Servable>>>,
}

impl PyServable {
    pub(crate) fn new(servable: Arc<Servable>) -> Self {
        Self { servable: Mutex::new(Some(servable)) }
    }

    /// Loads a servable of a native runtime, without the interpreter lock.
    ///
    /// # Errors
    ///
    /// The error of `load` as an exception.
    pub(crate) fn load(
        py: Python<'_>,
        in_background: bool,
        load: impl FnOnce() -> Result<Arc<Servable>, ServingError> + Send,
    ) -> PyResult<Self> {
        py.detach(|| run_maybe_in_background(in_background.then_some("load"), load)?)
            .map(Self::new)
            .map_err(|error| errors::to_python(py, &error))
    }

    /// The servable. It must not have been unloaded.
    pub(crate) fn loaded(&self) -> Result<Arc<Servable>, ServingError> {
        self.get().ok_or_else(|| ServingError::new(Code::FailedPrecondition, "the servable was unloaded"))
    }

    fn get(&self) -> Option<Arc<Servable>> {
        self.servable.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[pymethods]
impl PyServable {
    #[staticmethod]
    #[pyo3(signature = (name, signatures, run, threads, max_run_seconds, is_repeatable=false))]
    fn from_python(
        name: String,
        signatures: BTreeMap<String, DeclaredSignature>,
        run: Py<PyAny>,
        threads: usize,
        max_run_seconds: f64,
        is_repeatable: bool,
    ) -> PyResult<Self> {
        let signatures: BTreeMap<_, _> = signatures
            .into_iter()
            .map(|(name, declared)| declared.into_signature(&name).map(|signature| (name, signature)))
            .collect::<Result<_, _>>()
            .map_err(PyValueError::new_err)?;
        let signature_defs = metadata::signature_defs(&signatures);
        let longest_run = longest(max_run_seconds);
        let signatures_of_calls = signatures.clone();
        let executor =
            PythonExecutor { name, run, signatures: signatures_of_calls, threads, longest_run, is_repeatable };
        Ok(Self::new(Servable::new(signatures, signature_defs, Box::new(executor))))
    }

    fn signature_defs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let servable = self.loaded().map_err(|error| errors::to_python(py, &error))?;
        Ok(PyBytes::new(py, servable.signature_defs()))
    }

    fn description<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let servable = self.loaded().map_err(|error| errors::to_python(py, &error))?;
        Ok(PyBytes::new(py, &worker::describe(&servable)))
    }

    fn serve(&self, py: Python<'_>, slots: Vec<RawFd>) -> PyResult<()> {
        let serve = || self.loaded().and_then(|servable| worker::serve(&servable, slots));
        py.detach(serve).map_err(|error| errors::to_python(py, &error))
    }

    fn run<'py>(
        &self,
        py: Python<'py>,
        signature_name: &str,
        inputs: BTreeMap<String, Sent<'py>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let raised = |error| errors::to_python(py, &error);
        let servable = self.loaded().map_err(raised)?;
        let _held = servable.hold();
        let signature = predict_signature(&servable, signature_name).map_err(raised)?;
        let sent: Vec<(&str, &Sent<'py>)> = inputs.iter().map(|(alias, sent)| (alias.as_str(), sent)).collect();
        let inputs = arrange_inputs(&signature, &sent, |_, (dtype, shape, elements)| {
            buffers::copy(elements, DType(*dtype), shape.clone()).map_err(|error| errors::from_python(py, &error))
        });
        let inputs = inputs.map_err(raised)?;
        let all: Vec<usize> = (0..signature.outputs.len()).collect();
        let outputs = py.detach(|| servable.run(&signature, inputs, &all, &RunOptions::default())).map_err(raised)?;
        let lent = PyDict::new(py);
        for (spec, tensor) in signature.outputs.iter().zip(outputs) {
            lent.set_item(&spec.alias, (tensor.dtype().0, buffers::lend(py, tensor)?))?;
        }
        Ok(lent)
    }

    #[pyo3(signature = (prediction_log, iterations, check_method_names=false))]
    fn warm_up(
        &self,
        py: Python<'_>,
        prediction_log: &[u8],
        iterations: usize,
        check_method_names: bool,
    ) -> PyResult<()> {
        let options = ApiOptions { check_method_names, ..ApiOptions::default() };
        let servable = self.loaded().map_err(|error| errors::to_python(py, &error))?;
        let record = py
            .detach(|| Record::parse(prediction_log))
            .map_err(|_| PyValueError::new_err("not a serialized tensorflow.serving.PredictionLog"))?;
        py.detach(|| (0..iterations).try_for_each(|_| record.replay(&servable, options)))
            .map_err(|error| errors::to_python(py, &error))
    }

    fn warm_up_with_zeros(&self, py: Python<'_>, iterations: usize) -> PyResult<BTreeMap<String, Option<String>>> {
        let servable = self.loaded().map_err(|error| errors::to_python(py, &error))?;
        let results = py.detach(|| warm_up::run_on_zeros(&servable, iterations));
        Ok(results.into_iter().map(|(name, result)| (name, result.err().map(|error| error.to_string()))).collect())
    }

    fn prediction_log<'py>(&self, py: Python<'py>, body: &[u8], is_examples: bool) -> PyResult<Bound<'py, PyBytes>> {
        let servable = self.loaded().map_err(|error| errors::to_python(py, &error))?;
        let record = py
            .detach(|| warm_up::record_of_rest(&servable, body, is_examples))
            .map_err(|error| errors::to_python(py, &error))?;
        Ok(PyBytes::new(py, &record))
    }

    #[pyo3(signature = (threads, parameters, origin=""))]
    fn batch(
        &self,
        py: Python<'_>,
        threads: &PyBatchThreads,
        parameters: BatchingParameters,
        origin: &str,
    ) -> PyResult<()> {
        let batched = self.loaded().and_then(|servable| {
            servable.batch(threads.scheduler()?, parameters.into())?;
            servable.explain_batching(origin);
            Ok(())
        });
        batched.map_err(|error| errors::to_python(py, &error))
    }

    fn leave_unbatched(&self, py: Python<'_>, reason: &str) -> PyResult<()> {
        let servable = self.loaded().map_err(|error| errors::to_python(py, &error))?;
        servable.explain_batching(reason);
        Ok(())
    }

    #[pyo3(signature = (timeout_seconds=None))]
    fn wait_until_idle(&self, py: Python<'_>, timeout_seconds: Option<f64>) -> PyResult<bool> {
        let timeout = timeout_seconds.map(seconds).transpose()?;
        let servable = self.get();
        Ok(py.detach(|| servable.is_none_or(|servable| servable.wait_until_idle(timeout))))
    }

    #[pyo3(signature = (*, in_background=false))]
    fn unload(&self, py: Python<'_>, in_background: bool) -> PyResult<()> {
        let unload = || {
            let mut held = self.servable.lock().unwrap_or_else(PoisonError::into_inner);
            if held.as_ref().is_some_and(|servable| !servable.wait_until_idle(Some(std::time::Duration::ZERO))) {
                let message = "the servable is published, or a request holds it";
                return Err(ServingError::new(Code::FailedPrecondition, message));
            }
            drop(held.take());
            Ok(())
        };
        let unloaded = py.detach(|| {
            run_maybe_in_background(in_background.then_some("unload"), unload)??;
            // It is fast, and holds locks of the allocator: so not on a background thread of low priority.
            release_free_memory();
            Ok(())
        });
        unloaded.map_err(|error| errors::to_python(py, &error))
    }
}

/// Opens the library of a runtime, without the interpreter lock.
///
/// # Errors
///
/// A `LoadError` that names what is missing.
pub(crate) fn opened<T: Send>(py: Python<'_>, open: impl FnOnce() -> Result<T, OpenError> + Send) -> PyResult<T> {
    py.detach(open).map_err(|error| errors::named(py, "LoadError", &error.to_string()))
}

/// The servable of an executor, with the signatures that its heads add.
///
/// # Errors
///
/// See [`add_heads`].
pub(crate) fn with_heads(
    mut executor: Box<dyn Executor>,
    mut signatures: BTreeMap<String, Signature>,
    heads: Option<Heads>,
) -> Result<Arc<Servable>, ServingError> {
    if let Some(heads) = heads {
        executor = add_heads(executor, &mut signatures, heads)?;
    }
    let signature_defs = metadata::signature_defs(&signatures);
    Ok(Servable::new(signatures, signature_defs, executor))
}

/// Returns free memory of the allocator to the system.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn release_free_memory() {
    // SAFETY: the function takes no pointers and may be called at any time from any thread.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn release_free_memory() {}
