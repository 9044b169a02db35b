//! Side-effect analysis: whether signatures of a graph do more than compute outputs. Such runs must not be repeated.

use std::collections::{HashMap, HashSet};

use super::Signatures;
use crate::wire::{Malformed, Reader, Value};

/// The prefix of internal signatures of TensorFlow, such as the one that restores variables.
const INTERNAL: &str = "__";

/// The dtype of an argument that is a handle of a variable, a table or a queue.
const RESOURCE: u64 = 20;

/// Operations that are stateful in TensorFlow, or take a handle, but may be repeated without visible effect. They read,
/// make a handle, call a function, draw a random number, or keep state for one run only.
const HARMLESS: [&str; 62] = [
    "AnonymousHashTable",
    "AnonymousMutableDenseHashTable",
    "AnonymousMutableHashTable",
    "AnonymousMutableHashTableOfTensors",
    "Assert",
    "Case",
    "CheckNumerics",
    "CheckNumericsV2",
    "CudnnRNN",
    "CudnnRNNV2",
    "CudnnRNNV3",
    "Empty",
    "GuaranteeConst",
    "HashTable",
    "HashTableV2",
    "If",
    "IsVariableInitialized",
    "LookupTableExport",
    "LookupTableExportV2",
    "LookupTableFind",
    "LookupTableFindV2",
    "LookupTableSize",
    "LookupTableSizeV2",
    "Multinomial",
    "MutableDenseHashTable",
    "MutableDenseHashTableV2",
    "MutableHashTable",
    "MutableHashTableOfTensors",
    "MutableHashTableOfTensorsV2",
    "MutableHashTableV2",
    "ParameterizedTruncatedNormal",
    "RandomGamma",
    "RandomPoisson",
    "RandomPoissonV2",
    "RandomShuffle",
    "RandomStandardNormal",
    "RandomUniform",
    "RandomUniformInt",
    "ReadVariableOp",
    "ResourceGather",
    "ResourceGatherNd",
    "StatefulPartitionedCall",
    "StatelessRandomGetAlg",
    "TensorArrayCloseV3",
    "TensorArrayConcatV3",
    "TensorArrayGatherV3",
    "TensorArrayReadV3",
    "TensorArrayScatterV3",
    "TensorArraySizeV3",
    "TensorArraySplitV3",
    "TensorArrayV3",
    "TensorArrayWriteV3",
    "Timestamp",
    "TruncatedNormal",
    "VarHandleOp",
    "VarIsInitializedOp",
    "Variable",
    "VariableShape",
    "VariableV2",
    "While",
    "XlaCallModule",
    "XlaLaunch",
];

/// Whether runs of all signatures are free of side effects, by an analysis of the graph.
///
/// All operations that a signature needs are checked, including those in functions. Each must be in the list of
/// harmless ones, or its definition in the graph must be neither stateful nor take a handle. Unknown or unreadable
/// parts count as effects.
#[must_use]
pub fn is_repeatable(meta_graph: &[u8], signatures: &Signatures) -> bool {
    Graph::read(meta_graph).and_then(|graph| graph.is_repeatable(signatures)).unwrap_or(false)
}

/// The relevant parts of a graph. Nodes are still encoded.
#[derive(Default)]
struct Graph<'a> {
    nodes: HashMap<&'a [u8], &'a [u8]>,
    /// The nodes of each function.
    functions: HashMap<&'a [u8], Vec<&'a [u8]>>,
    /// Whether operations may have effects by their definitions.
    operations: HashMap<&'a [u8], bool>,
}

/// The operation, the functions and the inputs of a node.
#[derive(Default)]
struct Node<'a> {
    operation: &'a [u8],
    inputs: Vec<&'a [u8]>,
    functions: Vec<&'a [u8]>,
}

impl<'a> Graph<'a> {
    fn read(meta_graph: &'a [u8]) -> Result<Self, Malformed> {
        let mut graph = Self::default();
        each(meta_graph, |number, content| match number {
            // meta_info_def, and in it stripped_op_list
            1 => each(content, |number, list| match number {
                2 => each(list, |_, definition| graph.add_operation(definition)),
                _ => Ok(()),
            }),
            // graph_def: nodes, and the library of functions
            2 => each(content, |number, content| match number {
                1 => {
                    graph.nodes.insert(name(content)?, content);
                    Ok(())
                }
                2 => each(content, |number, function| match number {
                    1 => graph.add_function(function),
                    _ => Ok(()),
                }),
                _ => Ok(()),
            }),
            _ => Ok(()),
        })?;
        Ok(graph)
    }

    fn add_operation(&mut self, definition: &'a [u8]) -> Result<(), Malformed> {
        let (mut own_name, mut has_effects): (&[u8], bool) = (b"", false);
        let mut fields = Reader::new(definition);
        while let Some(field) = fields.next_field()? {
            match (field.number, field.value) {
                (1, Value::Length(content)) => own_name = content,
                (2, Value::Length(argument)) => {
                    let mut fields = Reader::new(argument);
                    while let Some(field) = fields.next_field()? {
                        // type, is_ref
                        has_effects |= matches!((field.number, field.value), (3, Value::Varint(RESOURCE)));
                        has_effects |= matches!((field.number, field.value), (16, Value::Varint(1..)));
                    }
                }
                // is_stateful
                (17, Value::Varint(1..)) => has_effects = true,
                _ => {}
            }
        }
        self.operations.insert(own_name, has_effects);
        Ok(())
    }

    fn add_function(&mut self, function: &'a [u8]) -> Result<(), Malformed> {
        let (mut own_name, mut nodes): (&[u8], Vec<&[u8]>) = (b"", Vec::new());
        each(function, |number, content| {
            match number {
                1 => own_name = name(content)?,
                3 => nodes.push(content),
                _ => {}
            }
            Ok(())
        })?;
        self.functions.insert(own_name, nodes);
        Ok(())
    }

    fn is_repeatable(&self, signatures: &Signatures) -> Result<bool, Malformed> {
        let public = signatures.by_name.iter().filter(|(name, _)| !name.starts_with(INTERNAL));
        let outputs = public.flat_map(|(_, signature)| &signature.outputs);
        let mut nodes: Vec<&[u8]> = outputs.map(|spec| node_of(spec.tensor_name.as_bytes())).collect();
        let mut functions: Vec<&[u8]> = Vec::new();
        let (mut seen_nodes, mut seen_functions) = (HashSet::new(), HashSet::new());
        while let Some(own_name) = nodes.pop() {
            if !seen_nodes.insert(own_name) {
                continue;
            }
            // A node that the graph lacks is an error of the run.
            let Some(encoded) = self.nodes.get(own_name) else { continue };
            let node = Node::read(encoded)?;
            nodes.extend(node.inputs.iter().map(|input| node_of(input)));
            if !self.is_harmless(&node) {
                return Ok(false);
            }
            functions.extend(node.functions);
        }
        while let Some(own_name) = functions.pop() {
            if !seen_functions.insert(own_name) {
                continue;
            }
            for encoded in self.functions.get(own_name).into_iter().flatten() {
                let node = Node::read(encoded)?;
                if !self.is_harmless(&node) {
                    return Ok(false);
                }
                functions.extend(node.functions);
            }
        }
        Ok(true)
    }

    fn is_harmless(&self, node: &Node<'_>) -> bool {
        let is_listed = std::str::from_utf8(node.operation).is_ok_and(|name| HARMLESS.binary_search(&name).is_ok());
        is_listed
            || self.functions.contains_key(node.operation)
            || self.operations.get(node.operation).is_some_and(|has_effects| !has_effects)
    }
}

impl<'a> Node<'a> {
    fn read(encoded: &'a [u8]) -> Result<Self, Malformed> {
        let mut node = Self::default();
        each(encoded, |number, content| {
            match number {
                2 => node.operation = content,
                3 => node.inputs.push(content),
                // attr, an entry of a map, whose value may name functions
                5 => each(content, |number, value| match number {
                    2 => each(value, |number, content| match number {
                        1 => each(content, |number, function| match number {
                            9 => node.call(function),
                            _ => Ok(()),
                        }),
                        10 => node.call(content),
                        _ => Ok(()),
                    }),
                    _ => Ok(()),
                })?,
                _ => {}
            }
            Ok(())
        })?;
        // An operation with the name of a function is a call of it.
        node.functions.push(node.operation);
        Ok(node)
    }

    /// Records a function, whose name is in the first field.
    fn call(&mut self, function: &'a [u8]) -> Result<(), Malformed> {
        self.functions.push(name(function)?);
        Ok(())
    }
}

/// Calls `take` with each field that is a string or a message.
fn each<'a>(message: &'a [u8], mut take: impl FnMut(u32, &'a [u8]) -> Result<(), Malformed>) -> Result<(), Malformed> {
    let mut fields = Reader::new(message);
    while let Some(field) = fields.next_field()? {
        if let Value::Length(content) = field.value {
            take(field.number, content)?;
        }
    }
    Ok(())
}

/// The name of a message, which is its first field.
fn name(message: &[u8]) -> Result<&[u8], Malformed> {
    let mut found: &[u8] = b"";
    each(message, |number, content| {
        if number == 1 {
            found = content;
        }
        Ok(())
    })?;
    Ok(found)
}

/// The node of a tensor, or of an input `name:0` or `^name`.
fn node_of(input: &[u8]) -> &[u8] {
    let input = input.strip_prefix(b"^").unwrap_or(input);
    input.iter().position(|&byte| byte == b':').map_or(input, |colon| &input[..colon])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::wire::put_length_field;
    use servable_model::signature::{Signature, TensorSpec};
    use servable_model::tensor::DType;

    fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, content) in fields {
            put_length_field(&mut bytes, *number, content);
        }
        bytes
    }

    fn node(name: &str, operation: &str, inputs: &[&str], function: &str) -> Vec<u8> {
        let mut fields = vec![(1, name.as_bytes()), (2, operation.as_bytes())];
        fields.extend(inputs.iter().map(|input| (3, input.as_bytes())));
        let function = message(&[(1, b"f"), (2, &message(&[(10, &message(&[(1, function.as_bytes())]))]))]);
        fields.push((5, &function));
        message(&fields)
    }

    /// A graph of these nodes, with the functions `writes` and `computes`, and definitions of `Pure` and `Impure`.
    fn graph(nodes: &[Vec<u8>]) -> Vec<u8> {
        let function = |name: &str, operation: &str| {
            let signature = message(&[(1, name.as_bytes())]);
            message(&[(1, &message(&[(1, &signature), (3, &node("n", operation, &[], ""))]))])
        };
        let library = [function("writes", "AssignAddVariableOp"), function("computes", "Pure")].concat();
        let mut graph = message(&[(2, &library)]);
        for node in nodes {
            put_length_field(&mut graph, 1, node);
        }
        let stateful = [message(&[(1, b"Impure")]), vec![0x88, 1, 1]].concat();
        let handle = message(&[(1, b"AssignAddVariableOp"), (2, &[0x18, 20])]);
        let reference = message(&[(1, b"AssignAdd"), (2, &[0x80, 1, 1])]);
        let operations = message(&[(1, &message(&[(1, b"Pure")])), (1, &stateful), (1, &handle), (1, &reference)]);
        message(&[(1, &message(&[(2, &operations)])), (2, &graph)])
    }

    fn is_repeatable_graph(nodes: &[Vec<u8>]) -> bool {
        let spec = TensorSpec { alias: "y".into(), tensor_name: "y:0".into(), dtype: DType::FLOAT, shape: None };
        let signature = Signature { outputs: vec![spec], ..Signature::default() };
        let by_name = BTreeMap::from([("serving_default".to_owned(), signature)]);
        is_repeatable(&graph(nodes), &Signatures { by_name, ..Signatures::default() })
    }

    #[test]
    fn the_list_can_be_searched() {
        assert!(HARMLESS.is_sorted());
    }

    #[test]
    fn only_what_outputs_need_counts() {
        let unneeded = node("save", "Impure", &["y"], "");
        for (operation, inputs, function, expected) in [
            ("Pure", &[][..], "", true),
            ("ReadVariableOp", &[], "", true),
            ("Impure", &[], "", false),
            ("AssignAddVariableOp", &[], "", false),
            ("AssignAdd", &[], "", false),
            ("NobodyKnows", &[], "", false),
            ("Pure", &["save:0"], "", false),
            ("Pure", &["^save"], "", false),
            ("StatefulPartitionedCall", &[], "computes", true),
            ("StatefulPartitionedCall", &[], "writes", false),
            ("computes", &[], "", true),
            ("writes", &[], "", false),
        ] {
            let nodes = [node("y", operation, inputs, function), unneeded.clone()];
            assert_eq!(is_repeatable_graph(&nodes), expected, "{operation} {inputs:?} {function}");
        }
    }

    #[test]
    fn a_graph_that_cannot_be_read_may_do_anything() {
        assert!(!is_repeatable(b"\xff", &Signatures::default()));
    }
}
