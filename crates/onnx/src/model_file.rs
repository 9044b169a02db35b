//! The parts of a model file that the C API does not tell: loops, class labels, defaults of inputs, and unknown ranks.
//!
//! Weights are skipped, also on the disk. The field numbers are those of `onnx.proto`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use servable_codec::wire::{Malformed, Reader, Value};
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, DType, Strings, Tensor, element_count};

use crate::value::dtype_of;

/// Weights beyond this many bytes are no default of an input, and are skipped.
const LARGEST_DEFAULT: u64 = 64 << 10;

/// The maximum size of other messages. A node has weights only if it is a constant.
const LARGEST_MESSAGE: u64 = 256 << 20;

/// The maximum depth of graphs in attributes of nodes.
const MAX_DEPTH: u8 = 50;

/// What a model file tells.
#[derive(Debug, Default)]
pub(crate) struct ModelFile {
    /// Whether the number of steps of a run may depend on inputs.
    pub(crate) has_loops: bool,
    /// The distinct lists of labels that its classifiers have.
    pub(crate) class_labels: BTreeSet<Vec<String>>,
    /// The inputs whose rank is unknown.
    pub(crate) without_rank: BTreeSet<String>,
    /// Small weights by name. Those that are also inputs are their defaults.
    pub(crate) defaults: BTreeMap<String, Tensor>,
}

impl ModelFile {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is no model.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut found = Self::default();
        let mut fields = FileReader { file: BufReader::new(file), end: length, position: 0 };
        while let Some((number, length)) = fields.next_field()? {
            match number {
                GRAPH => {
                    let end = fields.end;
                    fields.end = fields.position + length;
                    found.read_graph(&mut fields)?;
                    fields.end = end;
                }
                FUNCTIONS => {
                    let message = fields.message(length)?;
                    found.read_nodes(Reader::new(&message), FUNCTION_NODE, MAX_DEPTH).map_err(invalid)?;
                }
                _ => fields.skip(length)?,
            }
        }
        Ok(found)
    }

    /// Reads the outermost graph.
    fn read_graph(&mut self, fields: &mut FileReader) -> io::Result<()> {
        while let Some((number, length)) = fields.next_field()? {
            match number {
                NODE => {
                    let message = fields.message(length)?;
                    self.read_node(Reader::new(&message), MAX_DEPTH).map_err(invalid)?;
                }
                INITIALIZER if length <= LARGEST_DEFAULT => {
                    let message = fields.message(length)?;
                    if let Some((name, tensor)) = default(Reader::new(&message)).map_err(invalid)? {
                        self.defaults.insert(name, tensor);
                    }
                }
                INPUT => {
                    let message = fields.message(length)?;
                    let (name, has_rank) = input(Reader::new(&message)).map_err(invalid)?;
                    if !has_rank {
                        self.without_rank.insert(name);
                    }
                }
                _ => fields.skip(length)?,
            }
        }
        Ok(())
    }

    /// Reads the nodes of a function or of a graph in an attribute.
    fn read_nodes(&mut self, mut fields: Reader<'_>, node: u32, depth: u8) -> Result<(), Malformed> {
        while let Some(field) = fields.next_field()? {
            if let (number, Value::Length(message)) = (field.number, field.value)
                && number == node
            {
                self.read_node(Reader::new(message), depth)?;
            }
        }
        Ok(())
    }

    fn read_node(&mut self, mut fields: Reader<'_>, depth: u8) -> Result<(), Malformed> {
        let depth = depth.checked_sub(1).ok_or(Malformed)?;
        while let Some(field) = fields.next_field()? {
            match (field.number, field.value) {
                (OP_TYPE, Value::Length(name)) => self.has_loops |= name == b"Loop",
                (ATTRIBUTE, Value::Length(message)) => self.read_attribute(Reader::new(message), depth)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_attribute(&mut self, mut fields: Reader<'_>, depth: u8) -> Result<(), Malformed> {
        let (mut are_labels, mut labels) = (false, Vec::new());
        while let Some(field) = fields.next_field()? {
            match (field.number, field.value) {
                (ATTRIBUTE_NAME, Value::Length(name)) => are_labels = name.starts_with(b"classlabels_"),
                (ATTRIBUTE_GRAPH | ATTRIBUTE_GRAPHS, Value::Length(graph)) => {
                    self.read_nodes(Reader::new(graph), NODE, depth)?;
                }
                // Names come first in practice, and lists of labels are short.
                (ATTRIBUTE_INTS, Value::Varint(number)) if are_labels => labels.push((number as i64).to_string()),
                (ATTRIBUTE_INTS, Value::Length(packed)) if are_labels => {
                    let numbers = servable_codec::wire::packed_varints(packed);
                    labels.extend(numbers.map(|number| (number as i64).to_string()));
                }
                (ATTRIBUTE_STRINGS, Value::Length(text)) if are_labels => {
                    labels.push(String::from_utf8_lossy(text).into_owned());
                }
                _ => {}
            }
        }
        if !labels.is_empty() {
            self.class_labels.insert(labels);
        }
        Ok(())
    }
}

/// Field numbers of `ModelProto` and `FunctionProto`.
const GRAPH: u32 = 7;
const FUNCTIONS: u32 = 25;
const FUNCTION_NODE: u32 = 7;

/// Field numbers of `GraphProto`.
const NODE: u32 = 1;
const INITIALIZER: u32 = 5;
const INPUT: u32 = 11;

/// Field numbers of `NodeProto` and `AttributeProto`.
const OP_TYPE: u32 = 4;
const ATTRIBUTE: u32 = 5;
const ATTRIBUTE_NAME: u32 = 1;
const ATTRIBUTE_GRAPH: u32 = 6;
const ATTRIBUTE_INTS: u32 = 8;
const ATTRIBUTE_STRINGS: u32 = 9;
const ATTRIBUTE_GRAPHS: u32 = 11;

/// The name of an input, and whether its type has a shape.
fn input(mut fields: Reader<'_>) -> Result<(String, bool), Malformed> {
    let (mut name, mut has_rank) = (String::new(), false);
    while let Some(field) = fields.next_field()? {
        match (field.number, field.value) {
            (1, Value::Length(text)) => name = String::from_utf8_lossy(text).into_owned(),
            // `TypeProto.tensor_type`, and its `shape`.
            (2, Value::Length(message)) => {
                has_rank = has_field(Reader::new(message), 1, |tensor| has_field(tensor, 2, |_| Ok(true)))?;
            }
            _ => {}
        }
    }
    Ok((name, has_rank))
}

/// Whether a field is there, and its content is as wanted.
fn has_field(
    mut fields: Reader<'_>,
    number: u32,
    is_wanted: impl Fn(Reader<'_>) -> Result<bool, Malformed>,
) -> Result<bool, Malformed> {
    let mut found = false;
    while let Some(field) = fields.next_field()? {
        if let Value::Length(message) = field.value
            && field.number == number
        {
            found |= is_wanted(Reader::new(message))?;
        }
    }
    Ok(found)
}

/// The name and value of a tensor; `None` if it is stored elsewhere, or has a dtype that clients do not have.
fn default(mut fields: Reader<'_>) -> Result<Option<(String, Tensor)>, Malformed> {
    let (mut name, mut element_type, mut shape) = (String::new(), 0, Vec::new());
    let (mut bytes, mut numbers, mut texts) = (AlignedBytes::new(ALIGNMENT), Vec::new(), Vec::new());
    while let Some(field) = fields.next_field()? {
        match (field.number, field.value) {
            (1, Value::Varint(size)) => shape.push(size as i64),
            (1, Value::Length(packed)) => {
                shape.extend(servable_codec::wire::packed_varints(packed).map(|size| size as i64));
            }
            (2, Value::Varint(number)) => element_type = number as i32,
            // Floats and doubles are stored as in memory, as are raw data of all numbers.
            (4 | 9 | 10, Value::Length(data)) => bytes.extend_from_slice(data),
            (4, Value::Fixed32(data)) => bytes.extend_from_slice(&data),
            (10, Value::Fixed64(data)) => bytes.extend_from_slice(&data),
            (5 | 7 | 11, Value::Varint(number)) => numbers.push(number),
            (5 | 7 | 11, Value::Length(packed)) => numbers.extend(servable_codec::wire::packed_varints(packed)),
            (6, Value::Length(text)) => texts.push(text),
            (8, Value::Length(text)) => name = String::from_utf8_lossy(text).into_owned(),
            _ => {}
        }
    }
    let (Ok(dtype), Some(count)) = (dtype_of(element_type), element_count(&shape)) else { return Ok(None) };
    if dtype == DType::STRING {
        let strings = || texts.iter().copied().collect::<Strings>();
        return Ok((texts.len() == count).then(|| (name, Tensor::from_strings(shape, strings()))));
    }
    let size = dtype.size().unwrap_or_default();
    for number in numbers {
        bytes.extend_from_slice(&number.to_le_bytes()[..size.min(8)]);
    }
    Ok((count.checked_mul(size) == Some(bytes.len()))
        .then(|| (name, Tensor::from_numbers(dtype, shape, Buffer::Owned(bytes)))))
}

/// Reads the length-delimited fields of a message in a file, and skips others.
struct FileReader {
    file: BufReader<File>,
    /// The end of the message.
    end: u64,
    position: u64,
}

impl FileReader {
    /// The number and length of the next length-delimited field, whose content has to be read or skipped.
    fn next_field(&mut self) -> io::Result<Option<(u32, u64)>> {
        while self.position < self.end {
            let tag = self.varint()?;
            let number = (tag >> 3) as u32;
            match tag & 7 {
                0 => drop(self.varint()?),
                1 => self.skip(8)?,
                2 => {
                    let length = self.varint()?;
                    if length > self.end.saturating_sub(self.position) {
                        return Err(invalid(Malformed));
                    }
                    return Ok(Some((number, length)));
                }
                5 => self.skip(4)?,
                _ => return Err(invalid(Malformed)),
            }
        }
        Ok(None)
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.file.fill_buf()?.first().ok_or_else(|| invalid(Malformed))?;
            self.file.consume(1);
            self.position += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(invalid(Malformed))
    }

    fn message(&mut self, length: u64) -> io::Result<Vec<u8>> {
        if length > LARGEST_MESSAGE {
            return Err(invalid(Malformed));
        }
        let mut message = vec![0; length as usize];
        self.file.read_exact(&mut message)?;
        self.position += length;
        Ok(message)
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        self.position += length;
        self.file.seek_relative(i64::try_from(length).map_err(|_| invalid(Malformed))?)
    }
}

fn invalid(_: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not an ONNX model")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

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

    fn number(field: u32, value: u64) -> Vec<u8> {
        let mut message = Vec::new();
        put_varint(&mut message, u64::from(field) << 3);
        put_varint(&mut message, value);
        message
    }

    /// A file with a loop in a branch, two equal lists of labels, an input of unknown rank, and weights.
    fn model() -> Vec<u8> {
        let inner = message(&[(NODE, &message(&[(OP_TYPE, b"Loop")]))]);
        let branch = message(&[(ATTRIBUTE_NAME, b"then_branch"), (ATTRIBUTE_GRAPH, &inner)]);
        let classes =
            message(&[(ATTRIBUTE_NAME, b"classlabels_strings"), (ATTRIBUTE_STRINGS, b"a"), (ATTRIBUTE_STRINGS, b"b")]);
        let node = |attribute: &[u8]| message(&[(OP_TYPE, b"Any"), (ATTRIBUTE, attribute)]);
        let with_rank = message(&[(1, b"x"), (2, &message(&[(1, &message(&[(2, b"")]))]))]);
        let without_rank = message(&[(1, b"any"), (2, &message(&[(1, &number(1, 1))]))]);
        let scalar = [number(2, 1), message(&[(8, b"factor"), (9, &3_f32.to_le_bytes())])].concat();
        let packed = [number(1, 2), number(2, 7), message(&[(7, b"\x05\x06"), (8, b"two")])].concat();
        let texts = [number(1, 1), number(2, 8), message(&[(6, b"text"), (8, b"words")])].concat();
        let huge = [number(1, 1 << 62), number(2, 11), message(&[(8, b"huge")])].concat();
        let large = [message(&[(8, b"large")]), message(&[(9, &vec![0; LARGEST_DEFAULT as usize])])].concat();
        let graph = message(&[
            (NODE, &node(&branch)),
            (NODE, &node(&classes)),
            (NODE, &node(&classes)),
            (INPUT, &with_rank),
            (INPUT, &without_rank),
            (INITIALIZER, &scalar),
            (INITIALIZER, &packed),
            (INITIALIZER, &texts),
            (INITIALIZER, &huge),
            (INITIALIZER, &large),
        ]);
        [number(1, 10), message(&[(GRAPH, &graph), (14, b"")])].concat()
    }

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("servable-{}-{name}.onnx", std::process::id()))
    }

    fn read(name: &str, bytes: &[u8]) -> io::Result<ModelFile> {
        let path = scratch(name);
        std::fs::write(&path, bytes)?;
        let found = ModelFile::read(&path);
        std::fs::remove_file(&path)?;
        found
    }

    #[test]
    fn a_file_tells_what_the_runtime_does_not() {
        let found = read("whole", &model()).unwrap();
        assert!(found.has_loops);
        assert_eq!(found.class_labels.into_iter().collect::<Vec<_>>(), [["a", "b"]]);
        assert_eq!(found.without_rank.into_iter().collect::<Vec<_>>(), ["any"]);
        let defaults: Vec<_> = found.defaults.iter().map(|(name, tensor)| (name.as_str(), tensor.shape())).collect();
        assert_eq!(defaults, [("factor", &[][..]), ("two", &[2]), ("words", &[1])]);
        assert_eq!(found.defaults["two"].size_in_bytes(), 16);
    }

    #[test]
    fn a_graph_without_loops_has_none() {
        let graph = message(&[(NODE, &message(&[(OP_TYPE, b"LoopLike")]))]);
        assert!(!read("plain", &message(&[(GRAPH, &graph)])).unwrap().has_loops);
    }

    #[test]
    fn a_damaged_file_is_an_error_or_a_model_but_never_a_panic() {
        let whole = model();
        for length in 0..whole.len().min(600) {
            let _ = read("cut", &whole[..length]);
            for byte in [0, 0x7f, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[length] = byte;
                let _ = read("damaged", &damaged);
            }
        }
    }
}
