//! Reader of the graph in a serialized `tensorflow.MetaGraphDef`: nodes, functions and the outputs of signatures.
//!
//! It serves analyses of the operations that a run executes. The values of constants are skipped.

use std::collections::HashMap;

use crate::wire::{Malformed, Reader, Value, text};

/// A node of the graph or of a function.
#[derive(Debug, Default)]
pub struct Node<'a> {
    /// The name of the operation or function that it calls.
    pub op: &'a str,
    /// The names of its input nodes, for nodes of the graph.
    pub inputs: Vec<&'a str>,
    /// The functions that its attributes name.
    pub functions: Vec<&'a str>,
    /// Whether the node must be compiled by XLA.
    pub is_compiled: bool,
}

/// The graph of a model.
#[derive(Debug, Default)]
pub struct Graph<'a> {
    /// The nodes by name.
    pub nodes: HashMap<&'a str, Node<'a>>,
    /// The functions by name.
    pub functions: HashMap<&'a str, Function<'a>>,
    /// The name of each signature, with the names of its output nodes.
    pub outputs: Vec<(&'a str, Vec<&'a str>)>,
}

/// A function of the graph.
#[derive(Debug, Default)]
pub struct Function<'a> {
    /// The nodes of its body.
    pub nodes: Vec<Node<'a>>,
    /// Whether the function must be compiled by XLA.
    pub is_compiled: bool,
}

impl<'a> Graph<'a> {
    /// Reads the graph from a serialized `tensorflow.MetaGraphDef`.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if the bytes are not such a message.
    pub fn read(meta_graph: &'a [u8]) -> Result<Self, Malformed> {
        let mut graph = Self::default();
        each(Reader::new(meta_graph), |number, _, message| match number {
            2 => each(message, |number, _, message| match number {
                1 => {
                    let (name, node) = Node::read(message)?;
                    graph.nodes.insert(name, node);
                    Ok(())
                }
                2 => each(message, |number, _, message| {
                    if number == 1 {
                        let (name, function) = Function::read(message)?;
                        graph.functions.insert(name, function);
                    }
                    Ok(())
                }),
                _ => Ok(()),
            }),
            5 => {
                graph.outputs.push(signature_outputs(message)?);
                Ok(())
            }
            _ => Ok(()),
        })?;
        Ok(graph)
    }
}

/// The name of a signature and the nodes of its outputs. The signature is an entry of a map to `SignatureDef`.
fn signature_outputs(entry: Reader<'_>) -> Result<(&str, Vec<&str>), Malformed> {
    let (mut signature_name, mut names) = ("", Vec::new());
    each(entry, |number, bytes, signature| match number {
        1 => {
            signature_name = text(bytes)?;
            Ok(())
        }
        2 => each(signature, |number, _, output| match number {
            2 => each(output, |number, _, tensor| match number {
                2 => tensor_names(tensor, &mut names),
                _ => Ok(()),
            }),
            _ => Ok(()),
        }),
        _ => Ok(()),
    })?;
    Ok((signature_name, names))
}

/// The nodes of a `TensorInfo`, whose tensor may be dense or have several components.
fn tensor_names<'a>(tensor: Reader<'a>, names: &mut Vec<&'a str>) -> Result<(), Malformed> {
    each(tensor, |number, bytes, parts| match number {
        1 => {
            names.push(node_name(text(bytes)?));
            Ok(())
        }
        // `CooSparse` names three tensors.
        4 => each(parts, |_, bytes, _| {
            names.push(node_name(text(bytes)?));
            Ok(())
        }),
        // `CompositeTensor` holds them as `TensorInfo`.
        5 => each(parts, |number, _, component| if number == 2 { tensor_names(component, names) } else { Ok(()) }),
        _ => Ok(()),
    })
}

/// The node of a tensor `node:index`, or of an input that may be a control input, `^node`.
fn node_name(tensor: &str) -> &str {
    let name = tensor.strip_prefix('^').unwrap_or(tensor);
    name.split_once(':').map_or(name, |(name, _)| name)
}

impl<'a> Node<'a> {
    fn read(message: Reader<'a>) -> Result<(&'a str, Self), Malformed> {
        let (mut name, mut node) = ("", Self::default());
        each(message, |number, bytes, attribute| {
            match number {
                1 => name = text(bytes)?,
                2 => node.op = text(bytes)?,
                3 => node.inputs.push(node_name(text(bytes)?)),
                5 => {
                    let functions = &mut node.functions;
                    node.is_compiled |= read_attribute(attribute, |function| functions.push(function))?;
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok((name, node))
    }
}

impl<'a> Function<'a> {
    fn read(message: Reader<'a>) -> Result<(&'a str, Self), Malformed> {
        let (mut name, mut function) = ("", Self::default());
        each(message, |number, _, part| {
            match number {
                1 => each(part, |number, bytes, _| {
                    if number == 1 {
                        name = text(bytes)?;
                    }
                    Ok(())
                })?,
                3 => function.nodes.push(Node::read(part)?.1),
                5 => function.is_compiled |= read_attribute(part, |_| ())?,
                _ => {}
            }
            Ok(())
        })?;
        Ok((name, function))
    }
}

/// Finds the functions that an attribute names. Returns whether the attribute demands compilation by XLA.
fn read_attribute<'a>(entry: Reader<'a>, mut function: impl FnMut(&'a str)) -> Result<bool, Malformed> {
    let (mut key, mut is_compiled) = (&b""[..], false);
    let mut value: Option<Reader<'a>> = None;
    each(entry, |number, bytes, message| {
        match number {
            1 => key = bytes,
            2 => value = Some(message),
            _ => {}
        }
        Ok(())
    })?;
    let Some(value) = value else { return Ok(false) };
    // An `AttrValue` holds one value or a list. That of a constant may be large, and is skipped.
    let mut fields = value;
    while let Some(field) = fields.next_field()? {
        match (field.number, field.value) {
            (5, Value::Varint(truth)) => is_compiled = truth != 0 && key == b"_XlaMustCompile",
            (10, Value::Length(bytes)) => read_function_name(value.nested(bytes)?, &mut function)?,
            (1, Value::Length(bytes)) => each(value.nested(bytes)?, |number, _, listed| match number {
                9 => read_function_name(listed, &mut function),
                _ => Ok(()),
            })?,
            _ => {}
        }
    }
    Ok(is_compiled)
}

/// The name in a `NameAttrList`.
fn read_function_name<'a>(message: Reader<'a>, function: &mut impl FnMut(&'a str)) -> Result<(), Malformed> {
    each(message, |number, bytes, _| {
        if number == 1 {
            function(text(bytes)?);
        }
        Ok(())
    })
}

/// Calls `read` with the number and the bytes of each length-delimited field.
pub(crate) fn each<'a>(
    message: Reader<'a>,
    mut read: impl FnMut(u32, &'a [u8], Reader<'a>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut fields = message;
    while let Some(field) = fields.next_field()? {
        if let Value::Length(bytes) = field.value {
            read(field.number, bytes, message.nested(bytes)?)?;
        }
    }
    Ok(())
}
