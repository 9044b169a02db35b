//! `PredictRequest`, read in two steps: the whole message is checked and split here; each tensor is decoded later, once
//! the model and the signature are known to exist, as that is the order in which clients see errors.

use bytes::Bytes;

use super::EncodedTensor;
use crate::schema;
use crate::wire::{self, Field, Malformed, Reader, Value};

/// A Predict call as it was sent. Names and tensors are parts of the body.
#[derive(Clone, Debug, Default)]
pub struct PredictRequest<'a> {
    /// What to call; `None` if the client left it out.
    pub model_spec: Option<ModelSpec<'a>>,
    /// Inputs, sorted by alias, each alias once.
    pub inputs: Vec<(&'a str, EncodedTensor<'a>)>,
    /// The outputs asked for; all if empty.
    pub output_filter: Vec<&'a str>,
}

/// Which version of which model is asked for, and which of its signatures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelSpec<'a> {
    /// The model; possibly empty.
    pub name: &'a str,
    /// Its version.
    pub version: RequestedVersion<'a>,
    /// The signature; empty for the default one.
    pub signature_name: &'a str,
}

/// How a request names a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestedVersion<'a> {
    /// Not at all.
    #[default]
    Unspecified,
    /// By its number; 0 is a number like others.
    Number(i64),
    /// By a label.
    Label(&'a str),
}

impl<'a> ModelSpec<'a> {
    pub(crate) fn merge(&mut self, mut fields: Reader<'a>) -> Result<(), Malformed> {
        while let Some(Field { number, value }) = fields.next_field()? {
            match (number, value) {
                (1, Value::Length(name)) => self.name = wire::text(name)?,
                (2, Value::Length(wrapper)) => {
                    // A number after a number is merged with it; after anything else it starts from 0.
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

/// Reads a Predict call, tensors still encoded.
///
/// # Errors
///
/// If the body is not a `PredictRequest` at all; the client sees INTERNAL with an empty text.
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
                    // Entries of two bytes that replace each other must not add up to a lot of memory.
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

/// Sorts map entries by key; where a key comes more than once, its last entry counts.
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

/// Shorter contents are quickly copied.
const LARGE_CONTENT: u64 = 64 << 10;

/// Where the raw content of the first large input begins in a message of which only this beginning is there.
///
/// A guess, to put a message into memory so that its content can stay where it is. `None` if it is not found.
pub fn find_content(beginning: &[u8]) -> Option<usize> {
    /// An input, its tensor, and the content of that, each as the tag of a field within the one before.
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
