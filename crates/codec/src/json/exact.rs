//! The exact decoder of predict requests. It works step by step on a parsed document, as TensorFlow Serving does.
//!
//! It produces all error messages, and decodes all requests that [`super::fast`] does not handle. The checks have the
//! order of TensorFlow Serving, because a request with several faults gets the message for the first.

use std::collections::BTreeSet;

use super::column::Column;
use super::dump::dump;
use super::tape::{Document, Node, Value};
use super::{Format, parse};
use servable_model::error::{Result, ServingError};
use servable_model::signature::{Signature, TensorSpec};
use servable_model::tensor::{Tensor, shape_text};

/// The document of a request with valid syntax, and its signature name.
pub(super) struct Request<'b> {
    pub(super) document: Document<'b>,
}

impl<'b> Request<'b> {
    /// Parses a body with at most this depth of nesting.
    pub(super) fn parse(body: &'b [u8], max_nesting: usize) -> Result<Self> {
        if body.is_empty() {
            return Err(ServingError::invalid_argument("JSON Parse error: The document is empty"));
        }
        let request = Self { document: parse::parse(body, max_nesting)? };
        if request.document.root().is_object() { Ok(request) } else { Err(request.fault(b" Is not object")) }
    }

    /// The signature name in the request; empty if it has none.
    pub(super) fn signature_name(&self) -> Result<&[u8]> {
        let Some(name) = self.document.root().member(b"signature_name") else { return Ok(b"") };
        name.string()
            .ok_or_else(|| self.fault(b" not formatted correctly. 'signature_name' key must be a string value."))
    }

    /// The inputs of the request, in the order of the signature.
    pub(super) fn inputs(&self, signature: &Signature) -> Result<(Format, Vec<Tensor>)> {
        let root = self.document.root();
        match (root.member(b"instances"), root.member(b"inputs")) {
            (Some(_), Some(_)) => {
                Err(self
                    .fault(b" Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "))
            }
            (Some(instances), None) if !instances.is_array() => {
                Err(self.fault(b" Expecting 'instances' to be an list/array"))
            }
            (Some(instances), None) if instances.len() == 0 => Err(self.fault(b" No values in 'instances' array")),
            (Some(instances), None) => Ok((Format::Row, Rows::decode(instances, &signature.inputs)?)),
            (None, Some(inputs)) => Ok((Format::Columnar, decode_columnar(inputs, &signature.inputs)?)),
            (None, None) => Err(ServingError::invalid_argument("Missing 'inputs' or 'instances' key")),
        }
    }

    /// An error about the document as a whole.
    pub(super) fn fault(&self, reason: &[u8]) -> ServingError {
        ServingError::invalid_argument([b"JSON Value: ", &dump(self.document.root())[..], reason].concat())
    }
}

/// The name of a member as a C string, which ends at a NUL: TensorFlow Serving passes it on so.
pub(super) fn until_nul(name: &[u8]) -> &[u8] {
    name.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn is_named_row(element: Value<'_>) -> bool {
    element.is_object() && element.base64().is_none()
}

/// The inputs of a request in row format.
struct Rows<'s> {
    specs: &'s [TensorSpec],
    columns: Vec<RowColumn>,
}

/// One input: the values of all rows, and the shape of the first row, which the others must have.
struct RowColumn {
    values: Column,
    first: Option<(usize, Vec<i64>)>,
}

impl<'s> Rows<'s> {
    fn decode(instances: Value<'_>, specs: &'s [TensorSpec]) -> Result<Vec<Tensor>> {
        let columns = specs.iter().map(|spec| RowColumn { values: Column::new(spec.dtype), first: None }).collect();
        let mut rows = Self { specs, columns };
        let is_plain = instances.elements().next().is_some_and(|first| !is_named_row(first));
        if is_plain && specs.len() > 1 && !instances.elements().next().is_some_and(Value::is_object) {
            return Err(ServingError::invalid_argument(
                "instances is a plain list, but expecting list of objects as multiple input tensors required as per \
                 tensorinfo_map",
            ));
        }
        for (row, element) in instances.elements().enumerate() {
            match (is_plain, is_named_row(element)) {
                (true, false) => rows.add(0, element).map_err(|cause| row_error(row, None, &cause))?,
                (true, true) => return Err(misplaced("value/list but got object", row)),
                (false, true) => rows.add_named(row, element)?,
                (false, false) => return Err(misplaced("object but got list", row)),
            }
        }
        rows.finish(instances.len())
    }

    fn add_named(&mut self, row: usize, element: Value<'_>) -> Result<()> {
        let mut found = BTreeSet::new();
        for (name, value) in element.members() {
            let name = until_nul(name);
            let column = self.specs.binary_search_by(|spec| spec.alias.as_bytes().cmp(name));
            let added = match column {
                Ok(column) => self.add(column, value),
                Err(_) => {
                    Err(ServingError::invalid_argument([b"JSON object: does not have named input: ", name].concat()))
                }
            };
            added.map_err(|cause| row_error(row, Some(name), &cause))?;
            found.insert(name);
        }
        // All names are those of inputs, so the sets differ only if there are fewer names.
        if found.len() == self.specs.len() {
            return Ok(());
        }
        let names: Vec<&str> = self.specs.iter().map(|spec| spec.alias.as_str()).collect();
        Err(ServingError::invalid_argument(
            [
                format!("Failed to process element: {row} of 'instances' list. JSON object: ").as_bytes(),
                &dump(element),
                b" keys must be equal to: ",
                names.join(",").as_bytes(),
            ]
            .concat(),
        ))
    }

    /// Appends the value of one row to an input.
    fn add(&mut self, column: usize, value: Value<'_>) -> Result<()> {
        let RowColumn { values, first } = &mut self.columns[column];
        let shape = shape_of(value);
        let size = fill(values, value, &shape)?;
        match first {
            None => *first = Some((size, shape)),
            Some((wanted, _)) if *wanted != size => {
                return Err(ServingError::invalid_argument(format!("Expecting tensor size: {wanted} but got: {size}")));
            }
            Some((_, wanted)) if *wanted != shape => {
                let (wanted, shape) = (shape_text(wanted), shape_text(&shape));
                return Err(ServingError::invalid_argument(format!("Expecting shape {wanted} but got: {shape}")));
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn finish(self, rows: usize) -> Result<Vec<Tensor>> {
        // Plain base64 values belong to the first input, even if there are several. The others are then missing.
        if self.columns.iter().any(|column| column.first.is_none()) {
            return Err(missing_inputs(self.specs));
        }
        let columns = self.columns.into_iter().zip(self.specs);
        columns
            .map(|(column, spec)| {
                let (_, row_shape) = column.first.unwrap_or_default();
                let mut shape = Vec::with_capacity(row_shape.len() + 1);
                shape.push(rows as i64);
                shape.extend(row_shape);
                column.values.finish(&spec.alias, shape)
            })
            .collect()
    }
}

fn misplaced(what: &str, row: usize) -> ServingError {
    ServingError::invalid_argument(format!("Expecting {what} at item {row} of input list"))
}

fn row_error(row: usize, name: Option<&[u8]>, cause: &ServingError) -> ServingError {
    let mut message = format!("Failed to process element: {row}").into_bytes();
    if let Some(name) = name {
        message.extend(b" key: ");
        message.extend(name);
    }
    message.extend(format!(" of 'instances' list. Error: {}: ", cause.code.name()).bytes());
    message.extend(&cause.message);
    ServingError::invalid_argument(message)
}

/// The error for a request with values of the first input only.
fn missing_inputs(specs: &[TensorSpec]) -> ServingError {
    let names: Vec<&str> = specs.iter().map(|spec| spec.alias.as_str()).collect();
    ServingError::invalid_argument(format!(
        "input size does not match signature: 1!={} len({{{}}}) != len({{{}}}). Sent extra: {{}}. Missing but \
         required: {{{}}}.",
        names.len(),
        names[0],
        names.join(","),
        names[1..].join(",")
    ))
}

fn decode_columnar(inputs: Value<'_>, specs: &[TensorSpec]) -> Result<Vec<Tensor>> {
    let is_named = is_named_row(inputs);
    if !is_named && specs.len() > 1 {
        return Err(ServingError::invalid_argument(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per \
             tensorinfo_map",
        ));
    }
    let mut filled = Vec::with_capacity(specs.len());
    for spec in specs {
        let value = if is_named { inputs.member(spec.alias.as_bytes()) } else { Some(inputs) };
        let value = value.ok_or_else(|| {
            ServingError::invalid_argument(format!("Missing named input: {} in 'inputs' object.", spec.alias))
        })?;
        let shape = shape_of(value);
        let mut column = Column::new(spec.dtype);
        fill(&mut column, value, &shape)?;
        filled.push((column, shape));
    }
    filled.into_iter().zip(specs).map(|((column, shape), spec)| column.finish(&spec.alias, shape)).collect()
}

/// The shape of nested lists, taken from the first element of each level.
pub(super) fn shape_of(mut value: Value<'_>) -> Vec<i64> {
    let mut shape = Vec::new();
    while value.is_array() {
        shape.push(value.len() as i64);
        let Some(first) = value.elements().next() else { break };
        value = first;
    }
    shape
}

/// Appends all leaves of a value. Returns their number.
pub(super) fn fill(column: &mut Column, value: Value<'_>, shape: &[i64]) -> Result<usize> {
    let document = value.document;
    let rank = shape.len();
    // The ends of the enclosing lists.
    let mut open: Vec<usize> = Vec::new();
    let mut count = 0;
    let mut index = value.index;
    while index < value.end() {
        while open.pop_if(|end| *end == index).is_some() {}
        let this = Value { document, index };
        let level = open.len();
        if let Node::Array(end, size) = this.node() {
            if level >= rank {
                let message = format!("Encountered list at unexpected level: {level} expected < {rank}");
                return Err(ServingError::invalid_argument(message));
            }
            if i64::from(size) != shape[level] {
                return Err(ServingError::invalid_argument(format!(
                    "Encountered list at unexpected size: {size} at level: {level} expected size: {}",
                    shape[level]
                )));
            }
            open.push(end as usize);
            index += 1;
        } else {
            if level != rank {
                let reason =
                    format!(" found at incorrect level: {} in the JSON DOM. Expected at level: {rank}", level + 1);
                let message = [b"JSON Value: ", &dump(this)[..], reason.as_bytes()].concat();
                return Err(ServingError::invalid_argument(message));
            }
            column.push(this)?;
            count += 1;
            index = this.end();
        }
    }
    Ok(count)
}
