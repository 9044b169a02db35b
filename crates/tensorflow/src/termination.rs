//! Termination analysis: whether runs of a graph are sure to end. It is done once, when a model is loaded.
//!
//! The work of a straight-line graph is bounded by its inputs. A graph with a loop, a queue or a data set may run or
//! wait without end. The runtime can cancel such a run between two operations. Some operations block and cannot be
//! cancelled.

use std::collections::{HashMap, HashSet};

use servable_codec::graph::{Graph, Node};

/// The reasons for which a run may not terminate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Termination {
    /// The run may loop or wait without end. The runtime can cancel it.
    pub(crate) is_unbounded: bool,
    /// An operation may block or compute without end. It cannot be cancelled.
    pub(crate) may_block: bool,
}

impl Termination {
    const ENDS: Self = Self { is_unbounded: false, may_block: false };
    const UNBOUNDED: Self = Self { is_unbounded: true, may_block: false };
    const MAY_BLOCK: Self = Self { is_unbounded: false, may_block: true };
    const UNKNOWN: Self = Self { is_unbounded: true, may_block: true };

    fn or(self, other: Self) -> Self {
        Self { is_unbounded: self.is_unbounded || other.is_unbounded, may_block: self.may_block || other.may_block }
    }
}

/// Substrings of the names of operations that loop, wait for other operations, or read from a data set, which may be
/// infinite.
const UNBOUNDED_PARTS: [&str; 17] = [
    "While",
    "Iteration",
    "LoopCond",
    "Dequeue",
    "Enqueue",
    "BarrierTake",
    "BarrierInsert",
    "Dataset",
    "Iterator",
    "TakeGradient",
    "MutexLock",
    "Recv",
    "Collective",
    "BatchFunction",
    "Unbatch",
    "MapDefun",
    "Sleep",
];

/// Full names of such operations, where the name is a substring of harmless ones.
const UNBOUNDED_NAMES: [&str; 4] = ["Enter", "RefEnter", "For", "Batch"];

/// Substrings of the names of operations that block their thread. The last is opaque: it may contain a loop.
const BLOCKING_PARTS: [&str; 16] = [
    "Stage",
    "Unstage",
    "MapPeek",
    "PyFunc",
    "ReadFile",
    "WriteFile",
    "MatchingFiles",
    "ReaderRead",
    "RecordInput",
    "RemoteCall",
    "Rpc",
    "TPU",
    "Infeed",
    "Outfeed",
    "XlaHost",
    "XlaCallModule",
];

/// The maximum depth of calls between functions that is analysed.
const MAX_DEPTH: usize = 200;

/// Analyses all signatures of a serialized `tensorflow.MetaGraphDef`.
///
/// Only nodes that the outputs of signatures need are considered: a model also has functions to save or to train it.
/// `is_foreign` tells operations of other libraries, about which nothing is known. The worst is assumed of a message
/// that cannot be read.
pub(crate) fn of_meta_graph(meta_graph: &[u8], is_foreign: impl Fn(&str) -> bool) -> Termination {
    Graph::read(meta_graph).map_or(Termination::UNKNOWN, |graph| termination(&graph, &is_foreign))
}

fn termination(graph: &Graph<'_>, is_foreign: &impl Fn(&str) -> bool) -> Termination {
    let mut walk = Walk { graph, is_foreign, known: HashMap::new(), depth: 0 };
    let (mut seen, mut found) = (HashSet::new(), Termination::ENDS);
    let mut rest: Vec<&str> = graph.outputs.iter().flat_map(|(_, nodes)| nodes).copied().collect();
    while let Some(name) = rest.pop() {
        if !seen.insert(name) {
            continue;
        }
        // A name without a node will be an error of the run.
        if let Some(node) = graph.nodes.get(name) {
            found = found.or(walk.node(node));
            rest.extend(&node.inputs);
        }
    }
    found
}

/// The state of the walk through graph and functions.
struct Walk<'a, F> {
    graph: &'a Graph<'a>,
    is_foreign: &'a F,
    /// The results by function; `None` for a function that is being analysed.
    known: HashMap<&'a str, Option<Termination>>,
    /// The current depth of calls.
    depth: usize,
}

impl<'a, F: Fn(&str) -> bool> Walk<'a, F> {
    fn node(&mut self, node: &Node<'a>) -> Termination {
        // An operation with the name of a function is a call of it.
        let called =
            node.functions.iter().copied().chain(self.graph.functions.contains_key(node.op).then_some(node.op));
        let inside = called.map(|name| self.function(name)).fold(Termination::ENDS, Termination::or);
        of_compiled(self.operation(node.op).or(inside), node.is_compiled)
    }

    fn function(&mut self, name: &'a str) -> Termination {
        match self.known.get(name) {
            Some(Some(known)) => return *known,
            // A recursive call.
            Some(None) => return Termination::UNBOUNDED,
            None => {}
        }
        let Some(function) = self.graph.functions.get(name) else { return Termination::ENDS };
        if self.depth == MAX_DEPTH {
            return Termination::UNKNOWN;
        }
        self.depth += 1;
        self.known.insert(name, None);
        let inside = function.nodes.iter().map(|node| self.node(node)).fold(Termination::ENDS, Termination::or);
        let found = of_compiled(inside, function.is_compiled);
        self.known.insert(name, Some(found));
        self.depth -= 1;
        found
    }

    fn operation(&self, op: &str) -> Termination {
        let contains = |parts: &[&str]| parts.iter().any(|part| op.contains(part));
        if contains(&BLOCKING_PARTS) || (self.is_foreign)(op) {
            Termination::MAY_BLOCK
        } else if contains(&UNBOUNDED_PARTS) || UNBOUNDED_NAMES.contains(&op) {
            Termination::UNBOUNDED
        } else {
            Termination::ENDS
        }
    }
}

/// The termination of a part that XLA may compile. The runtime sees compiled code as one operation, and cannot cancel
/// it.
fn of_compiled(inside: Termination, is_compiled: bool) -> Termination {
    if is_compiled && inside != Termination::ENDS { Termination::MAY_BLOCK } else { inside }
}

#[cfg(test)]
mod tests {
    use servable_codec::wire::{put_length_field, put_varint};

    use super::*;

    /// A message of these length-delimited fields.
    fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
        let mut message = Vec::new();
        for (number, bytes) in fields {
            put_length_field(&mut message, *number, bytes);
        }
        message
    }

    fn attribute(key: &str, value: &[u8]) -> Vec<u8> {
        message(&[(1, key.as_bytes()), (2, value)])
    }

    /// An `AttrValue` that names a function.
    fn function_name(name: &str) -> Vec<u8> {
        message(&[(10, &message(&[(1, name.as_bytes())]))])
    }

    /// An `AttrValue` that is true.
    fn truth() -> Vec<u8> {
        let mut value = Vec::new();
        put_varint(&mut value, 5 << 3);
        put_varint(&mut value, 1);
        value
    }

    fn node(name: &str, op: &str, inputs: &[&str], attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut fields = vec![(1, name.as_bytes()), (2, op.as_bytes())];
        fields.extend(inputs.iter().map(|input| (3, input.as_bytes())));
        fields.extend(attributes.iter().map(|attribute| (5, attribute.as_slice())));
        message(&fields)
    }

    fn function(name: &str, nodes: &[Vec<u8>], attributes: &[Vec<u8>]) -> Vec<u8> {
        let signature = message(&[(1, name.as_bytes())]);
        let mut fields = vec![(1, signature.as_slice())];
        fields.extend(nodes.iter().map(|node| (3, node.as_slice())));
        fields.extend(attributes.iter().map(|attribute| (5, attribute.as_slice())));
        message(&fields)
    }

    /// The result for a graph with a signature whose output is the node `y`.
    fn found(nodes: &[Vec<u8>], functions: &[Vec<u8>]) -> Termination {
        let library: Vec<_> = functions.iter().map(|function| (1, function.as_slice())).collect();
        let library = message(&library);
        let mut fields: Vec<_> = nodes.iter().map(|node| (1, node.as_slice())).collect();
        fields.push((2, &library));
        let output = message(&[(1, b"y"), (2, &message(&[(1, b"y:0")]))]);
        let signature = message(&[(1, b"serving_default"), (2, &message(&[(2, &output)]))]);
        of_meta_graph(&message(&[(2, &message(&fields)), (5, &signature)]), |op| op == "Theirs")
    }

    #[test]
    fn only_nodes_that_signatures_need_count() {
        let loops = node("loop", "Enter", &[], &[]);
        assert_eq!(found(&[node("y", "AddV2", &["x"], &[]), loops.clone()], &[]), Termination::ENDS);
        for input in ["loop", "loop:1", "^loop"] {
            let nodes = [node("y", "AddV2", &["x:0"], &[]), node("x", "Mul", &[input], &[]), loops.clone()];
            assert_eq!(found(&nodes, &[]), Termination::UNBOUNDED, "{input}");
        }
        let library = [function("save", &[node("file", "ReadFile", &[], &[])], &[])];
        assert_eq!(found(&[node("y", "AddV2", &[], &[])], &library), Termination::ENDS);
    }

    #[test]
    fn operations_are_classified_by_name() {
        let of = |op| found(&[node("y", op, &[], &[])], &[]);
        for op in ["StatelessWhile", "NextIteration", "QueueDequeueV2", "IteratorGetNext", "ReduceDataset", "For"] {
            assert_eq!(of(op), Termination::UNBOUNDED, "{op}");
        }
        for op in ["Unstage", "MapUnstage", "EagerPyFunc", "ReadFile", "XlaCallModule", "Theirs"] {
            assert_eq!(of(op), Termination::MAY_BLOCK, "{op}");
        }
        for op in ["MatMul", "BatchMatMulV2", "FIFOQueueV2", "Center", "FusedBatchNormV3", "LookupTableFindV2", "If"] {
            assert_eq!(of(op), Termination::ENDS, "{op}");
        }
    }

    #[test]
    fn functions_are_analysed_however_they_are_called() {
        let library = [
            function("outer", &[node("call", "PartitionedCall", &[], &[attribute("f", &function_name("inner"))])], &[]),
            function("inner", &[node("loop", "StatelessWhile", &[], &[])], &[]),
            function("again", &[node("call", "If", &[], &[attribute("then_branch", &function_name("again"))])], &[]),
        ];
        let of = |op, attributes: &[Vec<u8>]| found(&[node("y", op, &[], attributes)], &library);
        assert_eq!(of("outer", &[]), Termination::UNBOUNDED);
        let branches = message(&[(1, &message(&[(9, &message(&[(1, b"inner")]))]))]);
        assert_eq!(of("Case", &[attribute("branches", &branches)]), Termination::UNBOUNDED);
        assert_eq!(of("PartitionedCall", &[attribute("f", &function_name("again"))]), Termination::UNBOUNDED);
        assert_eq!(of("PartitionedCall", &[attribute("f", &function_name("gone"))]), Termination::ENDS);
    }

    #[test]
    fn a_loop_that_xla_compiles_cannot_be_cancelled() {
        let compiled = attribute("_XlaMustCompile", &truth());
        let library = [
            function("plain", &[node("loop", "StatelessWhile", &[], &[])], &[]),
            function("compiled", &[node("loop", "StatelessWhile", &[], &[])], std::slice::from_ref(&compiled)),
            function("straight", &[node("sum", "AddV2", &[], &[])], std::slice::from_ref(&compiled)),
        ];
        let call = |name: &str, more: &[Vec<u8>]| {
            let attributes = [&[attribute("f", &function_name(name))], more].concat();
            found(&[node("y", "StatefulPartitionedCall", &[], &attributes)], &library)
        };
        assert_eq!(call("plain", &[]), Termination::UNBOUNDED);
        assert_eq!(call("plain", &[compiled]), Termination::MAY_BLOCK);
        assert_eq!(call("compiled", &[]), Termination::MAY_BLOCK);
        assert_eq!(call("straight", &[]), Termination::ENDS);
    }

    #[test]
    fn the_worst_is_assumed_of_a_graph_that_cannot_be_read() {
        assert_eq!(of_meta_graph(b"\x12\xff", |_| false), Termination::UNKNOWN);
    }
}
