//! The signatures of a model: which names clients use, and which tensors of which graph they denote.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use servable_codec::metadata;
use servable_model::error::{Code, Result, ServingError};
use servable_model::signature::{DEFAULT_SIGNATURE, Signature, TensorSpec};
use servable_model::tensor::DType;

use crate::file::{MAX_RANK, ModelFile, Subgraph, TensorInfo, dtype};

/// Where signatures and their names come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// The signatures of the file format. Without them, those of [`Naming::TensorFlowServing`].
    Model,
    /// As in TensorFlow Serving: the definitions in the metadata, or one with the names of tensors.
    TensorFlowServing,
}

/// A graph that can be run.
#[derive(Debug)]
pub(crate) struct Graph {
    /// The position of a signature of this graph in the C API.
    pub(crate) index: usize,
    pub(crate) inputs: Vec<Port>,
    pub(crate) outputs: Vec<Port>,
    /// For each output, the first position of its tensor in inputs and earlier outputs, if it is there.
    pub(crate) same_tensors: Vec<Option<usize>>,
}

/// An input or output of a graph.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    /// The name for messages.
    pub(crate) alias: String,
    pub(crate) dtype: DType,
    /// The shape, with -1 for free dimensions.
    pub(crate) shape: Vec<i64>,
    /// The shape before any resize.
    pub(crate) initial_shape: Vec<i64>,
}

/// The position of a graph, and of one of its inputs or outputs.
type Place = (usize, usize);

/// The signatures of a model.
#[derive(Debug, Default)]
pub(crate) struct Signatures {
    pub(crate) by_name: BTreeMap<String, Signature>,
    /// The serialized `tensorflow.serving.SignatureDefMap` of the model, if it stores one.
    stored_definitions: Option<Bytes>,
    pub(crate) graphs: Vec<Graph>,
    /// The inputs of graphs, by tensor name.
    pub(crate) inputs: HashMap<String, Place>,
    /// The outputs of graphs, by tensor name.
    pub(crate) outputs: HashMap<String, Place>,
}

impl Signatures {
    /// Finds the signatures of a model.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT`, `UNIMPLEMENTED` or `INTERNAL` if the model has signatures that cannot be served, with the
    /// codes and texts of TensorFlow Serving where it has some.
    pub(crate) fn of(file: &ModelFile, naming: Naming) -> Result<Self> {
        if naming == Naming::Model && !file.signatures.is_empty() {
            return Self::of_model(file);
        }
        match &file.signature_defs {
            Some(Ok(definitions)) if !definitions.is_empty() => Self::of_definitions(file, definitions),
            Some(Err(damaged)) => Err(invalid_definitions(&format!("the file {}", damaged.0))),
            _ => Self::of_tensors(file, naming),
        }
    }

    /// The serialized `tensorflow.serving.SignatureDefMap` for clients.
    pub(crate) fn definitions(&self) -> Bytes {
        self.stored_definitions.clone().unwrap_or_else(|| metadata::signature_defs(&self.by_name))
    }

    /// Declares that the size of dimension 0 of all inputs and outputs of a graph is free.
    pub(crate) fn free_batch(&mut self, graph: usize) {
        self.stored_definitions = None;
        let Graph { inputs, outputs, .. } = &mut self.graphs[graph];
        for port in inputs.iter_mut().chain(outputs) {
            port.shape[0] = -1;
        }
        let of_graph = |places: &HashMap<String, Place>, name: &str| places.get(name).is_some_and(|at| at.0 == graph);
        for signature in self.by_name.values_mut() {
            let inputs = signature.inputs.iter_mut().filter(|spec| of_graph(&self.inputs, &spec.tensor_name));
            let outputs = signature.outputs.iter_mut().filter(|spec| of_graph(&self.outputs, &spec.tensor_name));
            for shape in inputs.chain(outputs).filter_map(|spec| spec.shape.as_mut()) {
                shape[0] = -1;
            }
        }
    }

    /// The signatures of the file format.
    fn of_model(file: &ModelFile) -> Result<Self> {
        let mut signatures = Self::default();
        for (index, entry) in file.signatures.iter().enumerate() {
            let subgraph = &file.subgraphs[entry.subgraph];
            let places = |names: &BTreeMap<String, usize>, ends: &[usize]| -> Vec<(String, usize)> {
                let place = |tensor| ends.iter().rposition(|end| end == tensor).expect("checked with the file");
                names.iter().map(|(alias, tensor)| (alias.clone(), place(tensor))).collect()
            };
            let inputs = places(&entry.inputs, &subgraph.inputs);
            let outputs = places(&entry.outputs, &subgraph.outputs);
            signatures.add(&entry.key, Graph::new(index, subgraph)?, subgraph, inputs, outputs, Naming::Model);
        }
        Ok(signatures)
    }

    /// The definitions of TensorFlow Serving, in the metadata of the file.
    fn of_definitions(file: &ModelFile, definitions: &BTreeMap<String, Vec<u8>>) -> Result<Self> {
        let read = metadata::signatures_from_definitions(metadata::definition_map(definitions))
            .map_err(|error| invalid_definitions(&error.text()))?;
        let main = &file.subgraphs[0];
        let named = |ends: &[usize], name: &str| {
            let called = |name: &str| ends.iter().rposition(|&end| main.tensors[end].name == name);
            called(name).or_else(|| called(without_index(name)))
        };
        let mut graph = Graph::new(index_of_main(file)?, main)?;
        let (mut inputs, mut outputs) = (HashMap::new(), HashMap::new());
        for (name, signature) in &read.by_name {
            let mut fed = vec![false; main.inputs.len()];
            for spec in &signature.inputs {
                let place = named(&main.inputs, &spec.tensor_name).ok_or_else(|| unknown_tensor("input", spec))?;
                fed[place] = true;
                graph.inputs[place].alias.clone_from(&spec.alias);
                inputs.insert(spec.tensor_name.clone(), (0, place));
            }
            for spec in &signature.outputs {
                let place = named(&main.outputs, &spec.tensor_name).ok_or_else(|| unknown_tensor("output", spec))?;
                graph.outputs[place].alias.clone_from(&spec.alias);
                outputs.insert(spec.tensor_name.clone(), (0, place));
            }
            if let Some(missing) = fed.iter().position(|&fed| !fed) {
                let missing = &main.tensors[main.inputs[missing]].name;
                return Err(invalid_definitions(&format!("signature \"{name}\" lacks the input \"{missing}\"")));
            }
        }
        Ok(Self {
            by_name: read.by_name,
            stored_definitions: Some(read.signature_defs),
            graphs: vec![graph],
            inputs,
            outputs,
        })
    }

    /// One signature with the names of the tensors.
    fn of_tensors(file: &ModelFile, naming: Naming) -> Result<Self> {
        let mut signatures = Self::default();
        let main = &file.subgraphs[0];
        let name = |end: &usize| main.tensors[*end].name.as_str();
        let places = |ends: &[usize]| -> BTreeMap<String, usize> {
            let named = |cut: fn(&str) -> &str| ends.iter().map(|end| cut(name(end)).to_owned()).zip(0..).collect();
            let short: BTreeMap<_, _> = named(without_index);
            // TensorFlow Serving has the last of several.
            if short.len() < ends.len() && naming == Naming::Model { named(|name| name) } else { short }
        };
        let (inputs, outputs) = (places(&main.inputs), places(&main.outputs));
        if inputs.len() < main.inputs.len() {
            return Err(ServingError::unimplemented("the model has several inputs of the same name, and no signature"));
        }
        let (inputs, outputs) = (inputs.into_iter().collect(), outputs.into_iter().collect());
        let graph = Graph::new(index_of_main(file)?, main)?;
        signatures.add(DEFAULT_SIGNATURE, graph, main, inputs, outputs, naming);
        Ok(signatures)
    }

    /// Adds a graph and its signature; `inputs` and `outputs` are sorted by alias.
    fn add(
        &mut self,
        key: &str,
        mut graph: Graph,
        subgraph: &Subgraph,
        inputs: Vec<(String, usize)>,
        outputs: Vec<(String, usize)>,
        naming: Naming,
    ) {
        let position = self.graphs.len();
        let specs = |known: &mut HashMap<String, Place>, ports: &mut [Port], tensors: &[usize], named: Vec<_>| {
            let spec = |(alias, place): (String, usize)| {
                let mut tensor_name = subgraph.tensors[tensors[place]].name.clone();
                // Runs tell signatures apart by the names of tensors, which graphs may share.
                if known.contains_key(&tensor_name) {
                    tensor_name = format!("{key}/{alias}");
                }
                known.insert(tensor_name.clone(), (position, place));
                ports[place].alias.clone_from(&alias);
                let shape = match naming {
                    Naming::Model => ports[place].shape.clone(),
                    Naming::TensorFlowServing => ports[place].initial_shape.clone(),
                };
                TensorSpec { alias, tensor_name, dtype: ports[place].dtype, shape: Some(shape) }
            };
            named.into_iter().map(spec).collect::<Vec<_>>()
        };
        let signature = Signature {
            inputs: specs(&mut self.inputs, &mut graph.inputs, &subgraph.inputs, inputs),
            outputs: specs(&mut self.outputs, &mut graph.outputs, &subgraph.outputs, outputs),
            method_name: "tensorflow/serving/predict".to_owned(),
            ..Signature::default()
        };
        self.by_name.insert(key.to_owned(), signature);
        self.graphs.push(graph);
    }
}

impl Graph {
    fn new(index: usize, subgraph: &Subgraph) -> Result<Self> {
        let ports =
            |ends: &[usize]| ends.iter().map(|&end| Port::new(&subgraph.tensors[end])).collect::<Result<Vec<_>>>();
        let all: Vec<usize> = subgraph.inputs.iter().chain(&subgraph.outputs).copied().collect();
        let same = |output| all[..output].iter().position(|&tensor| tensor == all[output]);
        Ok(Self {
            index,
            inputs: ports(&subgraph.inputs)?,
            outputs: ports(&subgraph.outputs)?,
            same_tensors: (subgraph.inputs.len()..all.len()).map(same).collect(),
        })
    }
}

impl Port {
    fn new(tensor: &TensorInfo) -> Result<Self> {
        let name = &tensor.name;
        // The text of TensorFlow Serving.
        let dtype = dtype(tensor.element)
            .ok_or_else(|| ServingError::internal(format!("Unknown TfLite type: {}", tensor.element)))?;
        if tensor.shape.len() > MAX_RANK {
            let text = format!("tensor \"{name}\" has rank {}, want at most {MAX_RANK}", tensor.shape.len());
            return Err(ServingError::unimplemented(text));
        }
        let sizes = |shape: &[i32]| shape.iter().map(|&size| i64::from(size)).collect();
        Ok(Self {
            alias: name.clone(),
            dtype,
            shape: sizes(&tensor.declared_shape),
            initial_shape: sizes(&tensor.shape),
        })
    }
}

/// The signature of the C API that runs the main graph.
fn index_of_main(file: &ModelFile) -> Result<usize> {
    // Without signatures, LiteRT makes one of the main graph.
    let index = file.signatures.iter().position(|entry| entry.subgraph == 0);
    index
        .or(file.signatures.is_empty().then_some(0))
        .ok_or_else(|| ServingError::unimplemented("the main graph of the model has no signature, and others have"))
}

/// A tensor name without the number of the output of an operation.
fn without_index(name: &str) -> &str {
    name.split_once(':').map_or(name, |(name, _)| name)
}

fn invalid_definitions(reason: &str) -> ServingError {
    ServingError::invalid_argument(format!("Invalid SignatureDefs found in TfLite model: {reason}"))
}

fn unknown_tensor(kind: &str, spec: &TensorSpec) -> ServingError {
    let text = format!(
        "Unknown tensor '{}'.\n\tSignature {kind} {} references an unknown tensor",
        spec.tensor_name, spec.alias
    );
    ServingError::new(Code::Internal, text)
}
