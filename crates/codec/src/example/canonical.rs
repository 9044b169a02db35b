//! The canonical encoding of examples, the only one that graphs parse.
//!
//! Graphs of TensorFlow have a fast parser of examples, which accepts only encodings that protobuf's libraries produce.
//! TensorFlow Serving hides that, because it decodes requests and encodes the examples again. Here examples are passed
//! on as they are received. Those in another encoding, which are rare, are detected and encoded again.

use bytes::{BufMut, Bytes};
use prost::Message;

use crate::proto::tensorflow::Example;
use crate::schema::{self, EXAMPLE};
use crate::wire::{Field, Malformed, Reader, Value, length_field_len, put_length_field, put_length_tag};

/// Whether a well-formed example has the canonical encoding.
///
/// The shortest encodings of all known fields are measured. Their sum equals the length of the message only if the
/// encoding is the shortest and there are no other fields.
pub(super) fn is_canonical(example: &[u8]) -> bool {
    is_sequence_of(1, example, |features| is_sequence_of(1, features, is_canonical_entry))
}

/// Whether a message consists of fields with this number, whose contents are canonical.
fn is_sequence_of(number: u32, message: &[u8], is_canonical: impl Fn(&[u8]) -> bool) -> bool {
    let mut measured = 0;
    let mut fields = Reader::new(message);
    while let Ok(Some(field)) = fields.next_field() {
        match field.value {
            Value::Length(content) if field.number == number && is_canonical(content) => {
                measured += length_field_len(number, content.len());
            }
            _ => return false,
        }
    }
    measured == message.len()
}

/// Whether a map entry is a name followed by a feature, both present.
fn is_canonical_entry(entry: &[u8]) -> bool {
    let mut fields = Reader::new(entry);
    let (Ok(Some(name)), Ok(Some(feature))) = (fields.next_field(), fields.next_field()) else { return false };
    let (Field { number: 1, value: Value::Length(name) }, Field { number: 2, value: Value::Length(feature) }) =
        (name, feature)
    else {
        return false;
    };
    length_field_len(1, name.len()) + length_field_len(2, feature.len()) == entry.len() && is_canonical_feature(feature)
}

/// Whether a feature has at most one list.
fn is_canonical_feature(feature: &[u8]) -> bool {
    match Reader::new(feature).next_field() {
        Ok(None) => true,
        Ok(Some(Field { number: number @ 1..=3, value: Value::Length(list) })) => {
            // All numbers are in one packed field.
            let is_whole = |packed: &[u8]| number == 1 || length_field_len(1, packed.len()) == list.len();
            length_field_len(number, list.len()) == feature.len() && is_sequence_of(1, list, is_whole)
        }
        _ => false,
    }
}

/// Appends a well-formed example in the canonical encoding.
///
/// # Errors
///
/// If the example is not well-formed.
pub(super) fn put_canonical(out: &mut Vec<u8>, example: &[u8]) -> Result<(), Malformed> {
    let conforming = schema::conform(Bytes::copy_from_slice(example), EXAMPLE)?;
    let features = Example::decode(conforming).map_err(|_| Malformed)?.features.unwrap_or_default();
    let mut entries = Vec::new();
    for (name, feature) in &features.feature {
        let feature = feature.encode_to_vec();
        put_length_tag(&mut entries, 1, length_field_len(1, name.len()) + length_field_len(2, feature.len()));
        put_length_field(&mut entries, 1, name.as_bytes());
        put_length_field(&mut entries, 2, &feature);
    }
    if !entries.is_empty() {
        put_length_tag(out, 1, entries.len());
        out.put_slice(&entries);
    }
    Ok(())
}
