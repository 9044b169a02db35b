//! The innermost loops of [`super::fast`]: text to the elements of one dtype.

use super::column::{Column, StringColumn};
use super::fast::Reader;
use super::number::{Number, scan, scan_f64, scan_i64, to_f32};
use super::string::{self, Span};
use super::syntax::{peek, skip_white_space};
use crate::tensor::{AlignedBytes, DType};

/// The leaves of one innermost list, its closing bracket included, or a single one.
pub(super) struct Leaves<'r, 'b> {
    pub(super) reader: &'r mut Reader<'b>,
    pub(super) is_one: bool,
}

impl Leaves<'_, '_> {
    /// Appends them; returns how many there were.
    pub(super) fn read(&mut self, column: &mut Column) -> Option<i64> {
        let dtype = column.dtype();
        let numbers = &mut column.numbers;
        match dtype {
            DType::FLOAT => self.numbers(numbers, |body, at| {
                let (value, next) = scan_f64(body, at)?;
                Some((to_f32(value).to_le_bytes(), next))
            }),
            DType::DOUBLE => self.numbers(numbers, |body, at| {
                let (value, next) = scan_f64(body, at)?;
                Some((value.to_le_bytes(), next))
            }),
            DType::INT8 => self.numbers(numbers, |body, at| integer(body, at, i8::to_le_bytes)),
            DType::INT16 => self.numbers(numbers, |body, at| integer(body, at, i16::to_le_bytes)),
            DType::INT32 => self.numbers(numbers, |body, at| integer(body, at, i32::to_le_bytes)),
            DType::UINT8 => self.numbers(numbers, |body, at| integer(body, at, u8::to_le_bytes)),
            DType::UINT32 => self.numbers(numbers, |body, at| integer(body, at, u32::to_le_bytes)),
            DType::INT64 => self.numbers(numbers, |body, at| integer(body, at, i64::to_le_bytes)),
            DType::UINT64 => self.numbers(numbers, |body, at| integer(body, at, u64::to_le_bytes)),
            DType::BOOL => self.numbers(numbers, boolean),
            DType::STRING => self.strings(&mut column.strings),
            _ => None,
        }
    }

    #[inline]
    fn numbers<const SIZE: usize>(
        &mut self,
        out: &mut AlignedBytes,
        read: impl Fn(&[u8], usize) -> Option<([u8; SIZE], usize)>,
    ) -> Option<i64> {
        const CHUNK: usize = 64;
        let body = self.reader.body;
        let mut chunk = [[0; SIZE]; CHUNK];
        let mut filled = 0;
        let mut count = 0;
        let mut at = self.reader.at;
        loop {
            let (value, next) = read(body, at)?;
            chunk[filled] = value;
            filled += 1;
            count += 1;
            at = next;
            if self.is_one {
                break;
            }
            if filled == CHUNK {
                out.extend_from_slice(chunk.as_flattened());
                filled = 0;
            }
            // Most lists are written `1,2` or `1, 2`.
            if peek(body, at) != b',' {
                at = skip_white_space(body, at);
            }
            at += 1;
            match peek(body, at - 1) {
                b',' if peek(body, at) > b' ' => {}
                b',' => at = skip_white_space(body, at),
                b']' => break,
                _ => return None,
            }
        }
        out.extend_from_slice(chunk[..filled].as_flattened());
        self.reader.at = at;
        Some(count)
    }

    fn strings(&mut self, out: &mut StringColumn) -> Option<i64> {
        let mut count = 0;
        loop {
            if self.reader.peek() == b'{' {
                self.base64(out)?;
            } else {
                self.string(out)?;
            }
            count += 1;
            if self.is_one || !self.reader.another(b']')? {
                return Some(count);
            }
        }
    }

    fn string(&mut self, out: &mut StringColumn) -> Option<()> {
        if self.reader.peek() != b'"' {
            return None;
        }
        let start = out.bytes.len();
        let (span, next) = string::scan(self.reader.body, self.reader.at, &mut out.bytes).ok()?;
        self.reader.at = next;
        match span {
            Span::Body { start, end } => out.push(&self.reader.body[start..end]),
            Span::Block(_) => out.ranges.push((start, out.bytes.len())),
        }
        Some(())
    }

    fn base64(&mut self, out: &mut StringColumn) -> Option<()> {
        self.reader.expect(b'{')?;
        if self.reader.plain_string()? != b"b64" {
            return None;
        }
        self.reader.expect(b':')?;
        out.push_base64(self.reader.plain_string()?)?;
        self.reader.expect(b'}')
    }
}

/// A number written as an integer that fits the type.
#[inline]
fn integer<T: TryFrom<i64> + TryFrom<u64>, const SIZE: usize>(
    body: &[u8],
    at: usize,
    bytes: fn(T) -> [u8; SIZE],
) -> Option<([u8; SIZE], usize)> {
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

fn boolean(body: &[u8], at: usize) -> Option<([u8; 1], usize)> {
    let rest = body.get(at..)?;
    if rest.starts_with(b"true") {
        Some(([1], at + 4))
    } else if rest.starts_with(b"false") {
        Some(([0], at + 5))
    } else {
        None
    }
}
