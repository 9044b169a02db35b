//! Decodes the elements of a tensor from the field of its dtype.
//!
//! There may be fewer values than elements. The last value is then repeated; without any, elements are zero or empty
//! strings. Surplus values are ignored.

use super::TensorError;
use crate::wire::{self, Reader, Value};
use servable_model::tensor::{ALIGNMENT, AlignedBytes, DType};

/// The layout of the elements in a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Little-endian numbers of 32 bits, one or two for each element.
    Fixed32,
    /// Little-endian numbers of 64 bits, one or two for each element.
    Fixed64,
    /// One varint for each element.
    Varint(Integer),
    /// One bytes field for all elements.
    Bytes,
}

/// The conversion between an element and the 64 bits of a varint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Integer {
    /// The lowest bytes are kept. With `signed`, they are sign-extended when written.
    Truncated { signed: bool },
    /// Values other than zero become 1.
    Bool,
    /// The lowest byte is kept. Only the lowest `bits` bits count, and only they are written.
    Narrow { bits: u32, signed: bool },
}

/// The number of the field for a dtype of numbers, and its layout.
pub(super) fn field_of(dtype: DType) -> Option<(u32, Layout)> {
    let truncated = |signed| Layout::Varint(Integer::Truncated { signed });
    let narrow = |bits, signed| Layout::Varint(Integer::Narrow { bits, signed });
    Some(match dtype {
        DType::FLOAT => (5, Layout::Fixed32),
        DType::DOUBLE => (6, Layout::Fixed64),
        DType::INT32 | DType::INT16 | DType::INT8 | DType::QINT32 | DType::QINT16 | DType::QINT8 => {
            (7, truncated(true))
        }
        DType::UINT16 | DType::UINT8 | DType::QUINT16 | DType::QUINT8 => (7, truncated(false)),
        DType::COMPLEX64 => (9, Layout::Fixed32),
        DType::INT64 => (10, truncated(true)),
        DType::BOOL => (11, Layout::Varint(Integer::Bool)),
        DType::COMPLEX128 => (12, Layout::Fixed64),
        DType::HALF | DType::BFLOAT16 => (13, truncated(false)),
        DType::UINT32 => (16, truncated(false)),
        DType::UINT64 => (17, truncated(false)),
        DType(24..=28 | 33) => (18, Layout::Bytes), // 8-bit and 4-bit floats
        DType(29) => (7, narrow(4, true)),
        DType(30) => (7, narrow(4, false)),
        DType(31) => (7, narrow(2, true)),
        DType(32) => (7, narrow(2, false)),
        _ => return None,
    })
}

/// Decodes `count` elements of `size` bytes each, of a dtype of numbers. `values` are the values of the field.
pub(super) fn numbers<'a, Values: Iterator<Item = Value<'a>>>(
    dtype: DType,
    count: usize,
    size: usize,
    values: impl FnOnce(u32) -> Values,
) -> AlignedBytes {
    let mut elements = AlignedBytes::with_capacity(ALIGNMENT, count * size);
    if count == 0 {
        return elements;
    }
    if let Some((number, layout)) = field_of(dtype) {
        let (limit, values) = (count * size, values(number));
        match (layout, size) {
            (Layout::Fixed32 | Layout::Fixed64, _) => fixed(&mut elements, values, limit, layout),
            (Layout::Bytes, _) => bytes(&mut elements, values, limit),
            (Layout::Varint(integer), 1) => varints::<1>(&mut elements, values, limit, integer),
            (Layout::Varint(integer), 2) => varints::<2>(&mut elements, values, limit, integer),
            (Layout::Varint(integer), 4) => varints::<4>(&mut elements, values, limit, integer),
            (Layout::Varint(integer), _) => varints::<8>(&mut elements, values, limit, integer),
        }
        // Half of a complex number is dropped.
        elements.truncate(elements.len() / size * size);
    }
    repeat_last(&mut elements, count, size);
    elements
}

fn fixed<'a>(elements: &mut AlignedBytes, values: impl Iterator<Item = Value<'a>>, limit: usize, layout: Layout) {
    for value in values {
        let number: &[u8] = match (&value, layout) {
            (Value::Length(packed), _) => packed,
            (Value::Fixed32(number), Layout::Fixed32) => number,
            (Value::Fixed64(number), Layout::Fixed64) => number,
            _ => continue, // of another wire type, and so another field
        };
        let room = limit - elements.len();
        elements.extend_from_slice(&number[..number.len().min(room)]);
    }
}

fn bytes<'a>(elements: &mut AlignedBytes, values: impl Iterator<Item = Value<'a>>, limit: usize) {
    // The field is not repeated, so the last occurrence counts.
    if let Some(Value::Length(last)) = values.filter(|value| matches!(value, Value::Length(_))).last() {
        elements.extend_from_slice(&last[..last.len().min(limit)]);
    }
}

fn varints<'a, const SIZE: usize>(
    elements: &mut AlignedBytes,
    values: impl Iterator<Item = Value<'a>>,
    limit: usize,
    integer: Integer,
) {
    let mut push = |value: u64| {
        let value = match integer {
            Integer::Truncated { .. } | Integer::Narrow { .. } => value,
            Integer::Bool => u64::from(value != 0),
        };
        let bytes = value.to_le_bytes();
        elements.extend_from_slice(bytes.first_chunk::<SIZE>().expect("an element is no wider than eight bytes"));
        elements.len() < limit
    };
    for value in values {
        let more = match value {
            Value::Varint(value) => push(value),
            Value::Length(packed) => wire::packed_varints(packed).all(&mut push),
            _ => true,
        };
        if !more {
            break;
        }
    }
}

/// Fills up with copies of the last element, or with zeros.
fn repeat_last(elements: &mut AlignedBytes, count: usize, size: usize) {
    let total = count * size;
    if elements.len() == total {
        return;
    }
    match elements.len().checked_sub(size).map(|start| elements[start..].to_vec()) {
        Some(last) if last.iter().any(|&byte| byte != last[0]) => {
            // Each step doubles the copied part, so that a large fill needs few copies.
            let mut filling = last;
            while elements.len() < total {
                let length = filling.len().min(total - elements.len());
                elements.extend_from_slice(&filling[..length]);
                if filling.len() < 1 << 16 {
                    filling.extend_from_within(..);
                }
            }
        }
        Some(last) => elements.resize(total, last[0]),
        None => elements.resize(total, 0),
    }
}

/// The ranges of `count` strings in the body, from the values of `string_val`. `offset` gives the position of a value.
pub(super) fn strings<'a>(
    values: impl Iterator<Item = Value<'a>>,
    offset: impl Fn(&[u8]) -> usize,
    count: usize,
) -> Vec<(usize, usize)> {
    let mut ranges = Vec::with_capacity(count);
    let sent = values.filter_map(|value| match value {
        Value::Length(string) => {
            let start = offset(string);
            Some((start, start + string.len()))
        }
        _ => None,
    });
    ranges.extend(sent.take(count));
    let last = ranges.last().copied().unwrap_or_default();
    ranges.resize(count, last);
    ranges
}

/// The ranges of `count` strings in the body, from `tensor_content` at `start`: all lengths first, and then all
/// strings.
///
/// # Errors
///
/// If the lengths do not match the content exactly.
pub(super) fn string_content(content: &[u8], start: usize, count: usize) -> Result<Vec<(usize, usize)>, TensorError> {
    if count > content.len() {
        return Err(TensorError::Invalid); // a length takes at least one byte
    }
    let mut lengths = Reader::new(content);
    let mut ranges = Vec::with_capacity(count);
    let mut end = 0_usize;
    for _ in 0..count {
        let length = lengths.varint32().map_err(|_| TensorError::Invalid)?;
        let begin = end;
        end += length as usize;
        if end > content.len() {
            return Err(TensorError::Invalid);
        }
        ranges.push((begin, end));
    }
    let rest = lengths.rest();
    if rest.len() != end {
        return Err(TensorError::Invalid);
    }
    let offset = start + content.len() - rest.len();
    for range in &mut ranges {
        *range = (range.0 + offset, range.1 + offset);
    }
    Ok(ranges)
}
