//! Side-effect analysis: whether signatures of a graph do more than compute outputs. Such runs must not be repeated.

use std::collections::{HashMap, HashSet};

use crate::graph::{Graph, Node, each};
use crate::wire::{Malformed, Reader, Value, text};

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
pub fn is_repeatable(meta_graph: &[u8]) -> bool {
    Analysis::read(meta_graph).is_ok_and(|analysis| analysis.is_repeatable())
}

struct Analysis<'a> {
    graph: Graph<'a>,
    /// Whether operations may have effects by their definitions.
    operations: HashMap<&'a str, bool>,
}

impl<'a> Analysis<'a> {
    fn read(meta_graph: &'a [u8]) -> Result<Self, Malformed> {
        let mut operations = HashMap::new();
        // meta_info_def, and in it stripped_op_list
        each(Reader::new(meta_graph), |number, _, info| match number {
            1 => each(info, |number, _, list| match number {
                2 => each(list, |_, _, definition| {
                    let (name, has_effects) = read_operation(definition)?;
                    operations.insert(name, has_effects);
                    Ok(())
                }),
                _ => Ok(()),
            }),
            _ => Ok(()),
        })?;
        Ok(Self { graph: Graph::read(meta_graph)?, operations })
    }

    fn is_repeatable(&self) -> bool {
        let public = self.graph.outputs.iter().filter(|(signature, _)| !signature.starts_with(INTERNAL));
        let mut nodes: Vec<&str> = public.flat_map(|(_, nodes)| nodes).copied().collect();
        let mut functions: Vec<&str> = Vec::new();
        let (mut seen_nodes, mut seen_functions) = (HashSet::new(), HashSet::new());
        while let Some(name) = nodes.pop() {
            if !seen_nodes.insert(name) {
                continue;
            }
            // A node that the graph lacks is an error of the run.
            let Some(node) = self.graph.nodes.get(name) else { continue };
            if !self.is_harmless(node) {
                return false;
            }
            nodes.extend(&node.inputs);
            functions.extend(called(node));
        }
        while let Some(name) = functions.pop() {
            let Some(function) = self.graph.functions.get(name).filter(|_| seen_functions.insert(name)) else {
                continue;
            };
            if !function.nodes.iter().all(|node| self.is_harmless(node)) {
                return false;
            }
            functions.extend(function.nodes.iter().flat_map(called));
        }
        true
    }

    fn is_harmless(&self, node: &Node<'_>) -> bool {
        HARMLESS.binary_search(&node.op).is_ok()
            || self.graph.functions.contains_key(node.op)
            || self.operations.get(node.op).is_some_and(|has_effects| !has_effects)
    }
}

/// The functions that a node may call. An operation with the name of a function is a call of it.
fn called<'a>(node: &Node<'a>) -> impl Iterator<Item = &'a str> {
    node.functions.iter().copied().chain([node.op])
}

/// The name of an operation, and whether it may have effects by its definition.
fn read_operation(mut definition: Reader<'_>) -> Result<(&str, bool), Malformed> {
    let (mut name, mut has_effects) = ("", false);
    while let Some(field) = definition.next_field()? {
        match (field.number, field.value) {
            (1, Value::Length(content)) => name = text(content)?,
            (2, Value::Length(argument)) => {
                let mut fields = definition.nested(argument)?;
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
    Ok((name, has_effects))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::put_length_field;

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
        let output = message(&[(1, b"y"), (2, &message(&[(1, b"y:0")]))]);
        let signature = message(&[(1, b"serving_default"), (2, &message(&[(2, &output)]))]);
        // The outputs of internal signatures do not count.
        let internal = message(&[(1, b"__save"), (2, &message(&[(2, &message(&[(2, &message(&[(1, b"save:0")]))]))]))]);
        is_repeatable(&[graph(nodes), message(&[(5, &signature), (5, &internal)])].concat())
    }

    #[test]
    fn the_list_can_be_searched() {
        assert!(HARMLESS.is_sorted());
    }

    #[test]
    fn only_operations_that_outputs_need_are_checked() {
        let unneeded = node("save", "Impure", &["y"], "");
        for (operation, inputs, function, expected) in [
            ("Pure", &[][..], "", true),
            ("ReadVariableOp", &[], "", true),
            ("Impure", &[], "", false),
            ("AssignAddVariableOp", &[], "", false),
            ("AssignAdd", &[], "", false),
            ("Undefined", &[], "", false),
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
        assert!(!is_repeatable(b"\xff"));
    }
}
