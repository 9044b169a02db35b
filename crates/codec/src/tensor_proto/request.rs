//! `PredictRequest`, decoded in two steps. The whole message is checked and split here. Tensors are decoded later, once
//! the model and the signature were found: clients see errors in that order.

use bytes::Bytes;

use super::EncodedTensor;
use crate::schema;
use crate::wire::{self, Field, Malformed, Reader, Value};

/// A Predict request. Names and tensors are slices of the body.
#[derive(Clone, Debug, Default)]
pub struct PredictRequest<'a> {
    /// The model spec; `None` if it is missing.
    pub model_spec: Option<ModelSpec<'a>>,
    /// The inputs, sorted by alias. Aliases are unique.
    pub inputs: Vec<(&'a str, EncodedTensor<'a>)>,
    /// The requested outputs; all if empty.
    pub output_filter: Vec<&'a str>,
}

/// The requested model, version and signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelSpec<'a> {
    /// The name of the model; may be empty.
    pub name: &'a str,
    /// Its version.
    pub version: RequestedVersion<'a>,
    /// The signature; empty for the default one.
    pub signature_name: &'a str,
}

/// The version in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestedVersion<'a> {
    /// None.
    #[default]
    Unspecified,
    /// A number. 0 has no special meaning.
    Number(i64),
    /// A label.
    Label(&'a str),
}

impl<'a> ModelSpec<'a> {
    pub(crate) fn merge(&mut self, mut fields: Reader<'a>) -> Result<(), Malformed> {
        while let Some(Field { number, value }) = fields.next_field()? {
            match (number, value) {
                (1, Value::Length(name)) => self.name = wire::text(name)?,
                (2, Value::Length(wrapper)) => {
                    // A number after a number is merged with it. After anything else, merging starts from 0.
                    let mut version = match self.version {
                        RequestedVersion::Number(version) => version,
                        _ => 0,
                    };
                    let mut fields = fields.nested(wrapper)?;
                    while let Some(field) = fields.next_field()? {
                        if let (1, Value::Varint(value)) = (field.number, field.value) {
                            version = value as i64;
                        }
                    }
                    self.version = RequestedVersion::Number(version);
                }
                (3, Value::Length(name)) => self.signature_name = wire::text(name)?,
                (4, Value::Length(label)) => self.version = RequestedVersion::Label(wire::text(label)?),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Decodes a Predict request, except its tensors.
///
/// # Errors
///
/// If the body is malformed. The client sees INTERNAL with an empty text.
pub fn decode_predict_request(body: &Bytes) -> Result<PredictRequest<'_>, Malformed> {
    let mut request = PredictRequest::default();
    let mut compact_at = 32;
    let mut fields = Reader::new(body);
    while let Some(Field { number, value }) = fields.next_field()? {
        match (number, value) {
            (1, Value::Length(spec)) => {
                request.model_spec.get_or_insert_default().merge(fields.nested(spec)?)?;
            }
            (2, Value::Length(entry)) => {
                request.inputs.push(decode_entry(body, fields.entry(entry))?);
                if request.inputs.len() == compact_at {
                    // Entries of two bytes that replace each other must not use much memory in total.
                    keep_last_of_each(&mut request.inputs);
                    compact_at = 32.max(2 * request.inputs.len());
                }
            }
            (3, Value::Length(alias)) => request.output_filter.push(wire::text(alias)?),
            (5, Value::Length(options)) => schema::check(fields.nested(options)?, schema::STREAMED_OPTIONS)?,
            (7, Value::Length(options)) => schema::check(fields.nested(options)?, schema::REQUEST_OPTIONS)?,
            _ => {}
        }
    }
    keep_last_of_each(&mut request.inputs);
    Ok(request)
}

/// Sorts map entries by key. Of entries with the same key, the last counts.
fn keep_last_of_each<T>(entries: &mut Vec<(&str, T)>) {
    if entries.len() > 1 {
        entries.reverse();
        entries.sort_by_key(|(key, _)| *key); // stable: of equal keys, the last one sent comes first
        entries.dedup_by_key(|(key, _)| *key);
    }
}

fn decode_entry<'a>(body: &'a Bytes, mut fields: Reader<'a>) -> Result<(&'a str, EncodedTensor<'a>), Malformed> {
    let mut alias = "";
    let mut tensor = EncodedTensor::new(body);
    while let Some(Field { number, value }) = fields.next_field()? {
        match (number, value) {
            (1, Value::Length(key)) => alias = wire::text(key)?,
            (2, Value::Length(part)) => tensor.merge(part, fields.nested(part)?)?,
            _ => {}
        }
    }
    Ok((alias, tensor))
}

/// Shorter contents are copied, which is fast.
const LARGE_CONTENT: u64 = 64 << 10;

/// The offset of the raw content of the first large input, from the beginning of an incomplete message.
///
/// It is a hint, used to place the message in memory so that the content is aligned. `None` if it is not found.
pub fn find_content(beginning: &[u8]) -> Option<usize> {
    /// The tags of nested fields: an input, its tensor, and the content of that.
    const PATH: [u64; 3] = [2 << 3 | 2, 2 << 3 | 2, 4 << 3 | 2];
    let mut reader = Reader::new(beginning);
    let mut path = PATH.iter().peekable();
    while let Some(&&wanted) = path.peek() {
        let tag = reader.varint().ok()?;
        let length = match tag & 7 {
            0 => reader.varint().ok().map(|_| 0)?,
            1 => 8,
            2 => reader.varint().ok()?,
            5 => 4,
            _ => return None,
        };
        if tag != wanted || (path.len() == 1 && length < LARGE_CONTENT) {
            reader.take(usize::try_from(length).ok()?).ok()?;
        } else {
            path.next();
        }
    }
    Some(beginning.len() - reader.rest().len())
}
