//! A loaded model: runs its signatures.

use std::sync::Arc;
use std::time::Duration;

use servable_model::error::{Result, ServingError};
use servable_model::executor::{Executor, RunOptions};
use servable_model::signature::{Signature, TensorSpec};
use servable_model::tensor::{Tensor, shape_text};

use crate::interpreter::{LoadedFile, declared_text};
use crate::pool::Pool;
use crate::signatures::{Graph, Port, Signatures};
use crate::split;

/// A loaded model.
///
/// Any number of threads may run it concurrently. A run waits for an interpreter.
pub struct Model {
    pub(crate) signatures: Signatures,
    pub(crate) pool: Pool,
    pub(crate) interpreters: usize,
    /// Whether runs depend on earlier ones.
    pub(crate) has_state: bool,
    /// Larger batches are split into runs of this size.
    pub(crate) rows_per_run: Option<usize>,
    pub(crate) longest_run: Option<Duration>,
    pub(crate) _file: Arc<LoadedFile>,
}

impl Model {
    /// The graph of these tensors. They may come from a signature that was composed of several.
    fn graph(&self, signature: &Signature) -> Result<usize> {
        let place = |spec: &TensorSpec, is_input| {
            let known = if is_input { &self.signatures.inputs } else { &self.signatures.outputs };
            known.get(&spec.tensor_name).map(|place| place.0).ok_or_else(|| unknown(spec))
        };
        let inputs = signature.inputs.iter().map(|spec| place(spec, true));
        let mut graphs = inputs.chain(signature.outputs.iter().map(|spec| place(spec, false)));
        let graph = graphs.next().unwrap_or_else(|| Err(ServingError::internal("a signature without tensors")))?;
        match graphs.find(|other| !matches!(other, Ok(other) if *other == graph)) {
            None => Ok(graph),
            Some(Err(error)) => Err(error),
            Some(Ok(_)) => {
                Err(ServingError::unimplemented("a TensorFlow Lite model runs the tensors of one signature at a time"))
            }
        }
    }

    /// The inputs in the order of the graph.
    fn arranged(&self, graph: &Graph, signature: &Signature, inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
        let mut arranged: Vec<Option<Tensor>> = vec![None; graph.inputs.len()];
        for (spec, tensor) in signature.inputs.iter().zip(inputs) {
            let &(_, place) = self.signatures.inputs.get(&spec.tensor_name).ok_or_else(|| unknown(spec))?;
            check(&graph.inputs[place], &spec.alias, &tensor)?;
            arranged[place] = Some(tensor);
        }
        let missing = |port: &Port| ServingError::invalid_argument(format!("input \"{}\" is missing", port.alias));
        arranged.into_iter().zip(&graph.inputs).map(|(tensor, port)| tensor.ok_or_else(|| missing(port))).collect()
    }
}

impl Executor for Model {
    fn runtime(&self) -> &'static str {
        "litert"
    }

    fn platform(&self) -> &'static str {
        "tensorflow_lite"
    }

    fn longest_run(&self) -> Option<Duration> {
        self.longest_run
    }

    fn is_repeatable(&self) -> bool {
        !self.has_state
    }

    fn concurrent_runs(&self) -> Option<usize> {
        Some(self.interpreters)
    }

    fn check_inputs(&self, signature: &Signature, inputs: &[Tensor]) -> Result<()> {
        for (spec, tensor) in signature.inputs.iter().zip(inputs) {
            let &(graph, place) = self.signatures.inputs.get(&spec.tensor_name).ok_or_else(|| unknown(spec))?;
            check(&self.signatures.graphs[graph].inputs[place], &spec.alias, tensor)?;
        }
        Ok(())
    }

    /// Runs a graph on a free interpreter.
    ///
    /// A run is cancelled at its deadline, before the next operator. Operators that XNNPACK has joined are one.
    fn run(
        &self,
        signature: &Signature,
        inputs: Vec<Tensor>,
        outputs: &[usize],
        options: &RunOptions,
    ) -> Result<Vec<Tensor>> {
        let position = self.graph(signature)?;
        let graph = &self.signatures.graphs[position];
        let inputs = self.arranged(graph, signature, inputs)?;
        let run = |inputs: Vec<Tensor>| {
            let mut interpreter = self.pool.take(position, &inputs, options.deadline)?;
            interpreter.run(position, graph, inputs, options.deadline)
        };
        let computed = match self.rows_per_run.zip(split::rows(&inputs)) {
            Some((rows_per_run, rows)) if rows > rows_per_run => {
                split::run_parts(inputs, rows, rows_per_run, self.interpreters, run)?
            }
            _ => run(inputs)?,
        };
        let mut computed: Vec<Option<Tensor>> = computed.into_iter().map(Some).collect();
        let mut places = Vec::with_capacity(outputs.len());
        for &output in outputs {
            let spec = &signature.outputs[output];
            places.push(self.signatures.outputs.get(&spec.tensor_name).ok_or_else(|| unknown(spec))?.1);
        }
        let take = |index: usize| {
            let place = places[index];
            // Two outputs of a signature may be the same tensor.
            let is_last = !places[index + 1..].contains(&place);
            let tensor = if is_last { computed[place].take() } else { computed[place].clone() };
            tensor.ok_or_else(|| ServingError::internal("the runtime returned no tensor for an output"))
        };
        (0..places.len()).map(take).collect()
    }
}

fn unknown(spec: &TensorSpec) -> ServingError {
    ServingError::internal(format!("the model has no tensor \"{}\"", spec.tensor_name))
}

/// Checks an input. Dimension 0 may have any size, because the runtime resizes it.
fn check(port: &Port, alias: &str, tensor: &Tensor) -> Result<()> {
    if tensor.dtype() != port.dtype {
        let (got, wanted) = (tensor.dtype(), port.dtype);
        return Err(ServingError::invalid_argument(format!("input \"{alias}\": got dtype {got}, want {wanted}")));
    }
    let (got, wanted) = (tensor.shape(), port.shape.as_slice());
    let fits =
        got.len() == wanted.len() && got.iter().zip(wanted).skip(1).all(|(size, wanted)| *wanted < 0 || size == wanted);
    if !fits {
        let (got, wanted) = (shape_text(got), declared_text(wanted));
        return Err(ServingError::invalid_argument(format!("input \"{alias}\": got shape {got}, want {wanted}")));
    }
    // The sizes that the runtime cannot take, unless the model has them.
    if got.iter().any(|&size| size == 0 || size > i64::from(i32::MAX)) && got != port.initial_shape {
        let (got, wanted) = (shape_text(got), declared_text(wanted));
        let text = format!("input \"{alias}\": got shape {got}, want {wanted} with sizes from 1 to {}", i32::MAX);
        return Err(ServingError::invalid_argument(text));
    }
    Ok(())
}
