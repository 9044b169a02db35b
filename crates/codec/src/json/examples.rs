//! Classify and Regress requests: converts JSON objects to serialized `tensorflow.Example` messages.
//!
//! The graph parses these messages. Each feature is a list of strings, floats or integers. The spelling of its first
//! element decides which.

use super::base64;
use super::exact::{Request, until_nul};
use super::number::to_f32;
use super::tape::{Node, Value};
use crate::example::Examples;
use crate::wire::{length_field_len, put_length_field, put_length_tag, put_varint};
use servable_model::error::{Result, ServingError};

impl Request<'_> {
    /// The examples of the request, with their context.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if there are none, or one of them is invalid.
    pub(super) fn examples(&self) -> Result<Examples> {
        let root = self.document.root();
        let mut writer = ExampleWriter::default();
        let context = root.member(b"context").map(|context| writer.example(context)).transpose()?;
        let Some(examples) = root.member(b"examples") else {
            return Err(self.fault(b" When method is classify, key 'examples' is expected and was not found"));
        };
        if !examples.is_array() {
            return Err(self.fault(b" Expecting 'examples' value to be an list/array"));
        }
        if examples.len() == 0 {
            return Err(self.fault(b" 'examples' value is an empty array"));
        }
        let ranges = examples.elements().map(|example| writer.example(example)).collect::<Result<_>>()?;
        let context = context.map_or_else(Vec::new, |(start, end)| writer.out[start..end].to_vec());
        Ok(Examples::new(writer.out.into(), ranges, context))
    }
}

/// The kind of the elements of a feature: the number of the field of `Feature` that lists them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bytes = 1,
    Float = 2,
    Int64 = 3,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Float => "float",
            Self::Int64 => "int64",
        }
    }
}

/// Writes examples one after the other. The length of a message precedes its contents, so contents are written first,
/// to scratch buffers that are reused.
#[derive(Default)]
struct ExampleWriter {
    /// The finished examples.
    out: Vec<u8>,
    /// Scratch: the features of the current example, as entries of a map.
    entries: Vec<u8>,
    /// Scratch: the elements of the current feature.
    elements: Vec<u8>,
    /// Scratch: the current string.
    decoded: Vec<u8>,
}

impl ExampleWriter {
    /// Writes an example. Returns its range in `out`.
    fn example(&mut self, example: Value<'_>) -> Result<(usize, usize)> {
        if !example.is_object() {
            let text = format!("Example must be JSON object but got JSON {}", example.type_name());
            return Err(ServingError::invalid_argument(text));
        }
        self.entries.clear();
        let mut entries = Vec::with_capacity(example.len());
        for (name, value) in example.members() {
            let name = until_nul(name);
            let start = self.entries.len();
            self.feature(name, value)?;
            entries.push((name, start, self.entries.len()));
        }
        // Of features with the same name, the last counts.
        entries.reverse();
        entries.sort_by_key(|&(name, ..)| name);
        entries.dedup_by_key(|&mut (name, ..)| name);

        let start = self.out.len();
        if !entries.is_empty() {
            put_length_tag(&mut self.out, 1, entries.iter().map(|&(_, start, end)| end - start).sum());
        }
        for (_, start, end) in entries {
            self.out.extend_from_slice(&self.entries[start..end]);
        }
        Ok((start, self.out.len()))
    }

    /// Writes a feature, with its name.
    fn feature(&mut self, name: &[u8], value: Value<'_>) -> Result<()> {
        self.elements.clear();
        let mut kind = None;
        if value.is_array() {
            for element in value.elements() {
                self.element(name, element, &mut kind)?;
            }
        } else {
            self.element(name, value, &mut kind)?;
        }
        let Self { entries, elements, .. } = self;
        // Each string has a tag. Numbers are packed, with one tag.
        let list_len = match kind {
            None => 0,
            Some(Kind::Bytes) => elements.len(),
            Some(Kind::Float | Kind::Int64) => length_field_len(1, elements.len()),
        };
        let feature_len = kind.map_or(0, |kind| length_field_len(kind as u32, list_len));
        put_length_tag(entries, 1, length_field_len(1, name.len()) + length_field_len(2, feature_len));
        put_length_field(entries, 1, name);
        put_length_tag(entries, 2, feature_len);
        if let Some(kind) = kind {
            put_length_tag(entries, kind as u32, list_len);
            if kind != Kind::Bytes {
                put_length_tag(entries, 1, elements.len());
            }
            entries.extend_from_slice(elements);
        }
        Ok(())
    }

    /// Appends an element to the feature. `kind` is the kind of the elements before it.
    fn element(&mut self, feature: &[u8], value: Value<'_>, kind: &mut Option<Kind>) -> Result<()> {
        let mut expect = |found: Kind| match *kind.get_or_insert(found) {
            expected if expected == found => Ok(()),
            expected => {
                Err(fault(b"Unexpected element type in feature: ", feature, " expecting type: ", expected.name()))
            }
        };
        match (value.node(), value.string(), value.base64()) {
            (_, Some(string), _) => {
                expect(Kind::Bytes)?;
                put_length_field(&mut self.elements, 1, string);
            }
            (_, _, Some(text)) => {
                expect(Kind::Bytes)?;
                self.decoded.clear();
                base64::decode(text, &mut self.decoded)
                    .ok_or_else(|| ServingError::invalid_argument("Unable to base64 decode"))?;
                put_length_field(&mut self.elements, 1, &self.decoded);
            }
            (Node::Double(number), ..) => {
                expect(Kind::Float)?;
                self.elements.extend_from_slice(&to_f32(number).to_le_bytes());
            }
            (Node::Unsigned(number), ..) => {
                expect(Kind::Int64)?;
                if i64::try_from(number).is_err() {
                    return Err(fault(b"Feature: ", feature, " has uint64_t element. Only int64_t is supported.", ""));
                }
                put_varint(&mut self.elements, number);
            }
            (Node::Negative(number), ..) => {
                expect(Kind::Int64)?;
                put_varint(&mut self.elements, number as u64);
            }
            (Node::Bool(value), ..) => {
                expect(Kind::Int64)?;
                put_varint(&mut self.elements, u64::from(value));
            }
            _ => {
                let type_name = value.type_name();
                return Err(fault(b"Feature: ", feature, " has element with unexpected JSON type: ", type_name));
            }
        }
        Ok(())
    }
}

fn fault(before: &[u8], feature: &[u8], after: &str, detail: &str) -> ServingError {
    ServingError::invalid_argument([before, feature, after.as_bytes(), detail.as_bytes()].concat())
}
