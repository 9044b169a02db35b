//! The executor for Python functions. It takes the interpreter once a batch.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use servable_model::error::{Code, Result, ServingError};
use servable_model::executor::{Executor, RunOptions};
use servable_model::signature::{Signature, TensorSpec};
use servable_model::tensor::{DType, Tensor};

use crate::{buffers, errors};

/// `servable.signature.TensorSpec`.
#[derive(FromPyObject)]
pub(crate) struct DeclaredSpec {
    data_type: i32,
    shape: Option<Vec<Option<i64>>>,
}

/// `servable.signature.Signature`.
#[derive(FromPyObject)]
pub(crate) struct DeclaredSignature {
    inputs: BTreeMap<String, DeclaredSpec>,
    outputs: BTreeMap<String, DeclaredSpec>,
}

/// Separates the name of the signature from the alias in the name of a tensor.
const SEPARATOR: char = '/';

impl DeclaredSignature {
    /// The signature with this name, or a description of the error in it.
    pub(crate) fn into_signature(self, name: &str) -> Result<Signature, String> {
        if name.contains(SEPARATOR) || self.outputs.is_empty() {
            return Err(format!("signature {name:?}: its name must not contain {SEPARATOR:?}, and it needs an output"));
        }
        let specs = |declared: BTreeMap<String, DeclaredSpec>| {
            declared.into_iter().map(|(alias, spec)| spec.into_spec(name, alias)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Signature {
            inputs: specs(self.inputs)?,
            outputs: specs(self.outputs)?,
            method_name: "tensorflow/serving/predict".to_owned(),
            ..Signature::default()
        })
    }
}

impl DeclaredSpec {
    fn into_spec(self, signature: &str, alias: String) -> Result<TensorSpec, String> {
        let dtype = DType(self.data_type);
        if !buffers::is_supported(dtype) {
            return Err(format!("tensor {alias:?} of signature {signature:?}: {dtype} is not supported"));
        }
        let tensor_name = format!("{signature}{SEPARATOR}{alias}");
        let shape = self.shape.map(|sizes| sizes.into_iter().map(|size| size.unwrap_or(-1)).collect());
        Ok(TensorSpec { alias, tensor_name, dtype, shape })
    }
}

/// The executor of a servable that is written in Python.
///
/// `Servable.from_python` in `_core.pyi` describes arguments and results.
pub(crate) struct PythonExecutor {
    /// The servable id, for messages.
    pub(crate) name: String,
    /// The function.
    pub(crate) run: Py<PyAny>,
    /// The declared inputs and outputs.
    pub(crate) signatures: BTreeMap<String, Signature>,
    /// The maximum number of concurrent calls.
    pub(crate) threads: usize,
    /// The maximum duration of a call.
    pub(crate) longest_run: Option<Duration>,
    /// Whether the author declares that a call may be repeated.
    pub(crate) is_repeatable: bool,
}

impl Executor for PythonExecutor {
    fn runtime(&self) -> &'static str {
        "python"
    }

    fn platform(&self) -> &'static str {
        "python"
    }

    fn run(
        &self,
        signature: &Signature,
        inputs: Vec<Tensor>,
        outputs: &[usize],
        options: &RunOptions,
    ) -> Result<Vec<Tensor>> {
        let outputs: Vec<&str> = outputs.iter().map(|&output| signature.outputs[output].tensor_name.as_str()).collect();
        let tensors = signature.inputs.iter().map(|spec| spec.tensor_name.as_str()).chain(outputs.iter().copied());
        let (name, declared) = self.declared(tensors)?;
        self.check_inputs(signature, &inputs)?;
        let timeout = options.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()).as_secs_f64());
        Python::try_attach(|py| {
            let arguments = PyDict::new(py);
            for (spec, tensor) in signature.inputs.iter().zip(inputs) {
                let lent =
                    buffers::lend(py, tensor).and_then(|tensor| arguments.set_item(alias(&spec.tensor_name), tensor));
                lent.map_err(|error| errors::from_python(py, &error))?;
            }
            let returned = self.run.bind(py).call1((name, arguments, timeout));
            let returned = returned.map_err(|error| errors::from_python(py, &error))?;
            self.take(py, declared, &returned, &outputs)
        })
        .unwrap_or_else(|| Err(ServingError::new(Code::Unavailable, "the interpreter is shutting down")))
    }

    fn longest_run(&self) -> Option<Duration> {
        self.longest_run
    }

    fn check_inputs(&self, signature: &Signature, inputs: &[Tensor]) -> Result<()> {
        for (spec, tensor) in signature.inputs.iter().zip(inputs) {
            self.check("input", spec, alias(&spec.tensor_name), tensor.dtype(), tensor.shape())
                .map_err(ServingError::invalid_argument)?;
        }
        Ok(())
    }

    fn is_repeatable(&self) -> bool {
        self.is_repeatable
    }

    /// A Python function may block, on the interpreter or on anything else.
    fn own_threads(&self) -> Option<usize> {
        Some(self.threads)
    }
}

/// The alias in the name of a tensor.
fn alias(tensor_name: &str) -> &str {
    tensor_name.split_once(SEPARATOR).map_or(tensor_name, |(_, alias)| alias)
}

impl PythonExecutor {
    /// The declared signature of these tensors. They may come from a signature that was composed of several.
    fn declared<'a>(&'a self, tensors: impl Iterator<Item = &'a str>) -> Result<(&'a str, &'a Signature)> {
        let mut names = tensors.filter_map(|tensor| tensor.split_once(SEPARATOR)).map(|(name, _)| name);
        let found = names.next().and_then(|name| self.signatures.get_key_value(name));
        let (name, signature) =
            found.ok_or_else(|| ServingError::internal(format!("{} was asked for no tensor it has", self.name)))?;
        if names.any(|other| other != name) {
            return Err(ServingError::unimplemented(format!(
                "{} is a Python servable, which runs one signature at a time",
                self.name
            )));
        }
        Ok((name, signature))
    }

    /// Checks a tensor against its declared spec.
    fn check(&self, kind: &str, spec: &TensorSpec, alias: &str, dtype: DType, shape: &[i64]) -> Result<(), String> {
        if dtype != spec.dtype {
            let (got, wanted) = (buffers::declared_name(dtype), buffers::declared_name(spec.dtype));
            return Err(format!("{kind} \"{alias}\" of {}: got dtype {got}, want {wanted}", self.name));
        }
        match &spec.shape {
            Some(wanted) if !fits(shape, wanted) => Err(format!(
                "{kind} \"{alias}\" of {}: got shape {}, want {}",
                self.name,
                shape_text(shape),
                shape_text(wanted)
            )),
            _ => Ok(()),
        }
    }

    /// Checks all returned outputs, and copies those that were requested.
    fn take(
        &self,
        py: Python<'_>,
        declared: &Signature,
        returned: &Bound<'_, PyAny>,
        wanted: &[&str],
    ) -> Result<Vec<Tensor>> {
        let failed = |error: PyErr| errors::from_python(py, &error);
        let returned: BTreeMap<String, (i32, Vec<i64>, Bound<'_, PyAny>)> = returned.extract().map_err(failed)?;
        if !returned.keys().eq(declared.outputs.iter().map(|spec| &spec.alias)) {
            return Err(ServingError::internal(format!(
                "outputs of {}: got {}, want {}",
                self.name,
                quoted(returned.keys().map(String::as_str)),
                quoted(declared.outputs.iter().map(|spec| spec.alias.as_str()))
            )));
        }
        for (spec, (dtype, shape, _)) in declared.outputs.iter().zip(returned.values()) {
            self.check("output", spec, &spec.alias, DType(*dtype), shape).map_err(ServingError::internal)?;
        }
        let output = |tensor_name: &&str| {
            let (dtype, shape, object) = &returned[alias(tensor_name)];
            buffers::copy(object, DType(*dtype), shape.clone()).map_err(failed)
        };
        wanted.iter().map(output).collect()
    }
}

fn fits(shape: &[i64], wanted: &[i64]) -> bool {
    shape.len() == wanted.len() && shape.iter().zip(wanted).all(|(size, wanted)| *wanted < 0 || size == wanted)
}

/// A shape as in error messages of Python servables: `[?, 3]`.
fn shape_text(shape: &[i64]) -> String {
    let sizes: Vec<String> =
        shape.iter().map(|&size| if size < 0 { "?".to_owned() } else { size.to_string() }).collect();
    format!("[{}]", sizes.join(", "))
}

fn quoted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("\"{name}\"")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
