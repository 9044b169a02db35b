//! Examples in the one form that graphs read.
//!
//! The parser in TensorFlow's graphs is a quick one of its own: of all the ways to write a message it knows those that
//! protobuf's libraries produce. The original hides that, as it takes requests apart and writes the examples anew. Here
//! they stay as they came, which is nearly always well; the others are found and written anew.

use bytes::{BufMut, Bytes};
use prost::Message;

use crate::proto::tensorflow::Example;
use crate::schema::{self, EXAMPLE};
use crate::wire::{Field, Malformed, Reader, Value, length_field_len, put_length_field, put_length_tag};

/// Whether a well-formed example is written in the form that every parser reads.
///
/// Fields that are measured as if they were written in the shortest way add up to the whole only if they are, and if
/// there is nothing else.
pub(super) fn is_canonical(example: &[u8]) -> bool {
    is_sequence_of(1, example, |features| is_sequence_of(1, features, is_canonical_entry))
}

/// Whether a message has nothing but fields of this number and form.
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

/// Whether an entry is a name followed by a feature, neither of them left out.
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

/// Whether a feature is one list or none.
fn is_canonical_feature(feature: &[u8]) -> bool {
    match Reader::new(feature).next_field() {
        Ok(None) => true,
        Ok(Some(Field { number: number @ 1..=3, value: Value::Length(list) })) => {
            // Numbers are packed, all together.
            let is_whole = |packed: &[u8]| number == 1 || length_field_len(1, packed.len()) == list.len();
            length_field_len(number, list.len()) == feature.len() && is_sequence_of(1, list, is_whole)
        }
        _ => false,
    }
}

/// Writes a well-formed example anew.
///
/// # Errors
///
/// If it is not well-formed.
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
