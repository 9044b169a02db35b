//! The inner loops of [`super::fast`], which decode the elements of one dtype.

use super::column::StringColumn;
use super::number::{Number, scan, to_f32};
use super::plain_number::{scan_f32_correctly, scan_f64, scan_f64_correctly, scan_i64};
use super::reader::Reader;
use super::string::{self, Span};
use super::syntax::{peek, skip_white_space};
use servable_model::tensor::AlignedBytes;

/// The extent of a read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// A single leaf.
    One,
    /// All leaves of the innermost list, at least one, and its closing bracket.
    RestOfList,
}

/// Appends leaves of one dtype to its column. Returns their number.
pub(super) trait Leaves: FnMut(&mut Reader<'_>, Extent) -> Option<i64> {}

impl<F: FnMut(&mut Reader<'_>, Extent) -> Option<i64>> Leaves for F {}

/// Decodes the element at a position of the body. Returns its bytes, and the position after it.
pub(super) trait Element<const SIZE: usize>: Fn(&[u8], usize) -> Option<([u8; SIZE], usize)> {}

impl<const SIZE: usize, F: Fn(&[u8], usize) -> Option<([u8; SIZE], usize)>> Element<SIZE> for F {}

/// Leaves of a fixed size.
#[inline]
pub(super) fn numbers<const SIZE: usize>(out: &mut AlignedBytes, element: impl Element<SIZE>) -> impl Leaves {
    move |reader: &mut Reader<'_>, extent| {
        let body = reader.body;
        let mut at = reader.at;
        let mut count = 0;
        loop {
            let (value, next) = element(body, at)?;
            out.extend_from_slice(&value);
            count += 1;
            at = next;
            if extent == Extent::One {
                break;
            }
            // Most lists have the form `1,2` or `1, 2`.
            if !matches!(peek(body, at), b',' | b']') {
                at = skip_white_space(body, at);
            }
            at += 1;
            match peek(body, at - 1) {
                b',' => {}
                b']' => break,
                _ => return None,
            }
            at += usize::from(peek(body, at) == b' ');
            if peek(body, at) <= b' ' {
                at = skip_white_space(body, at);
            }
        }
        reader.at = at;
        Some(count)
    }
}

/// A `float`.
#[inline]
pub(super) fn single(body: &[u8], at: usize) -> Option<([u8; 4], usize)> {
    let (value, next) = scan_f64(body, at)?;
    Some((to_f32(value).to_le_bytes(), next))
}

/// A `float`, correctly rounded.
#[inline]
pub(super) fn correct_single(body: &[u8], at: usize) -> Option<([u8; 4], usize)> {
    let (value, next) = scan_f32_correctly(body, at)?;
    Some((value.to_le_bytes(), next))
}

/// A `double`.
#[inline]
pub(super) fn double(body: &[u8], at: usize) -> Option<([u8; 8], usize)> {
    let (value, next) = scan_f64(body, at)?;
    Some((value.to_le_bytes(), next))
}

/// A `double`, correctly rounded.
#[inline]
pub(super) fn correct_double(body: &[u8], at: usize) -> Option<([u8; 8], usize)> {
    let (value, next) = scan_f64_correctly(body, at)?;
    Some((value.to_le_bytes(), next))
}

/// A number written as an integer that fits the type.
#[inline]
pub(super) fn integer<T: TryFrom<i64> + TryFrom<u64>, const SIZE: usize>(
    bytes: impl Fn(T) -> [u8; SIZE],
) -> impl Element<SIZE> {
    move |body: &[u8], at| {
        if let Some((value, next)) = scan_i64(body, at) {
            return Some((bytes(T::try_from(value).ok()?), next));
        }
        let (number, next) = scan(body, at).ok()?;
        let value = match number {
            Number::Unsigned(value) => T::try_from(value).ok()?,
            Number::Negative(value) => T::try_from(value).ok()?,
            Number::Double(_) => return None,
        };
        Some((bytes(value), next))
    }
}

/// `true` or `false`.
pub(super) fn boolean(body: &[u8], at: usize) -> Option<([u8; 1], usize)> {
    let rest = body.get(at..)?;
    if rest.starts_with(b"true") {
        Some(([1], at + 4))
    } else if rest.starts_with(b"false") {
        Some(([0], at + 5))
    } else {
        None
    }
}

/// Strings, plain or as base64 objects.
pub(super) fn strings(out: &mut StringColumn) -> impl Leaves {
    |reader: &mut Reader<'_>, extent| {
        let mut count = 0;
        loop {
            if reader.peek() == b'{' {
                base64(reader, out)?;
            } else {
                string(reader, out)?;
            }
            count += 1;
            if extent == Extent::One || !reader.another(b']')? {
                return Some(count);
            }
        }
    }
}

fn string(reader: &mut Reader<'_>, out: &mut StringColumn) -> Option<()> {
    if reader.peek() != b'"' {
        return None;
    }
    let start = out.bytes.len();
    let (span, next) = string::scan(reader.body, reader.at, &mut out.bytes).ok()?;
    reader.at = next;
    match span {
        Span::Body { start, end } => out.push(&reader.body[start..end]),
        Span::Block(_) => out.ranges.push((start, out.bytes.len())),
    }
    Some(())
}

fn base64(reader: &mut Reader<'_>, out: &mut StringColumn) -> Option<()> {
    reader.expect(b'{')?;
    if reader.plain_string()? != b"b64" {
        return None;
    }
    reader.expect(b':')?;
    out.push_base64(reader.plain_string()?)?;
    reader.expect(b'}')
}
