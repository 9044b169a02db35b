//! Predict responses and error bodies.
//!
//! The layout is that of the pretty-printer in TensorFlow Serving. In row format it prints arrays on one line, and
//! switches back before a row closes. Recorded responses depend on it, although clients do not.

use super::digits::{Text, split_eight_digits};
use super::float::{self, Subnormals, double_text, double_text_kept, single_text, single_text_kept};
use super::string::write_string;
use super::{Format, base64};
use half::f16;
use servable_model::error::{Result, ServingError, no_memory};
use servable_model::tensor::{DType, Elements, Tensor};

/// The body of an error response.
pub fn error_body(message: &[u8]) -> Vec<u8> {
    let mut out = b"{\n    \"error\": ".to_vec();
    write_string(&mut out, message);
    out.extend(b"\n}");
    out
}

/// The body of a predict response: the output tensors by name, in any order.
///
/// String tensors whose name ends in `_bytes` are written as base64. The name of a single output is omitted. Several
/// outputs are sorted by name.
///
/// # Errors
///
/// `INVALID_ARGUMENT` if there is no output, or a dtype has no JSON form. In row format, also if the outputs have
/// different numbers of rows.
pub fn encode_predict(format: Format, outputs: &[(&str, &Tensor)]) -> Result<Vec<u8>> {
    if outputs.is_empty() {
        return Err(ServingError::invalid_argument("Cannot convert empty tensor map to JSON"));
    }
    let mut outputs: Vec<Output<'_>> = outputs.iter().map(|&(name, tensor)| Output::new(name, tensor)).collect();
    outputs.sort_unstable_by_key(|output| output.name);
    let rows = if format == Format::Row { common_rows(&outputs)? } else { 0 };
    outputs.iter().try_for_each(Output::check_writable)?;

    let mut out = Vec::new();
    let length = estimate(&outputs);
    out.try_reserve_exact(length).map_err(|_| no_memory(length))?;
    let mut writer = Writer { out, depth: 1, is_single_line: false };
    match format {
        Format::Row => writer.write_rows(&outputs, rows),
        Format::Columnar => writer.write_columns(&outputs),
    }
    Ok(writer.out)
}

/// The first dimension of all outputs.
fn common_rows(outputs: &[Output<'_>]) -> Result<i64> {
    let mut common = None;
    for Output { name, tensor, .. } in outputs {
        let Some(&rows) = tensor.shape().first() else {
            return Err(ServingError::invalid_argument(format!("Tensor name: {name} has no shape information ")));
        };
        let expected = *common.get_or_insert(rows);
        if rows != expected {
            return Err(ServingError::invalid_argument(format!(
                "Tensor name: {name} has inconsistent batch size: {rows} expecting: {expected}"
            )));
        }
    }
    Ok(common.unwrap_or(0))
}

/// An estimate of the size of the response, which is seldom too small.
fn estimate(outputs: &[Output<'_>]) -> usize {
    let elements = |output: &Output<'_>| match output.tensor.elements() {
        Elements::Numbers(_) => 14 * output.tensor.len(),
        Elements::Strings(strings) => strings.iter().map(|string| string.len() * 4 / 3 + 8).sum(),
    };
    64 + outputs.iter().map(|output| elements(output) + output.name.len() + 16).sum::<usize>()
}

/// One output tensor.
struct Output<'t> {
    name: &'t str,
    tensor: &'t Tensor,
    /// Whether strings are written as base64 objects.
    is_base64: bool,
}

impl<'t> Output<'t> {
    fn new(name: &'t str, tensor: &'t Tensor) -> Self {
        Self { name, tensor, is_base64: name.ends_with("_bytes") }
    }

    fn check_writable(&self) -> Result<()> {
        let dtype = self.tensor.dtype();
        if is_carried(dtype) || self.tensor.is_empty() {
            return Ok(());
        }
        let message = format!("Failed to write JSON value for tensor type: {dtype}");
        Err(ServingError::invalid_argument(message))
    }
}

/// Whether elements of a dtype have a JSON form (`docs/spec/rest_api.md` §8.4, §9.1).
pub fn is_carried(dtype: DType) -> bool {
    matches!(
        dtype,
        DType::FLOAT
            | DType::DOUBLE
            | DType::INT8
            | DType::INT16
            | DType::INT32
            | DType::INT64
            | DType::UINT8
            | DType::UINT32
            | DType::UINT64
            | DType::BOOL
            | DType::STRING
    )
}

struct Writer {
    out: Vec<u8>,
    /// The number of open containers.
    depth: usize,
    /// Whether arrays are currently written on one line.
    is_single_line: bool,
}

impl Writer {
    fn write_rows(&mut self, outputs: &[Output<'_>], rows: i64) {
        self.out.extend(b"{\n    \"predictions\": [");
        self.depth = 2;
        self.is_single_line = true;
        if let [output] = outputs {
            self.write_elements(output, 0, 0..output.tensor.len());
        } else {
            for row in 0..rows as usize {
                self.out.extend_from_slice(if row > 0 { b",\n        {" } else { b"\n        {" });
                self.depth = 3;
                for (index, output) in outputs.iter().enumerate() {
                    self.write_name(index, output.name);
                    let size = output.tensor.len() / rows as usize;
                    self.write_value(output, 1, row * size..(row + 1) * size);
                }
                self.out.extend(b"\n        }");
            }
        }
        self.depth = 1;
        self.out.extend_from_slice(if rows > 0 { b"\n    ]\n}" } else { b"]\n}" });
    }

    fn write_columns(&mut self, outputs: &[Output<'_>]) {
        self.out.extend(b"{\n    \"outputs\": ");
        if let [output] = outputs {
            self.write_value(output, 0, 0..output.tensor.len());
        } else {
            self.out.push(b'{');
            self.depth = 2;
            for (index, output) in outputs.iter().enumerate() {
                self.write_name(index, output.name);
                self.write_value(output, 0, 0..output.tensor.len());
            }
            self.out.extend(b"\n    }");
        }
        self.out.extend(b"\n}");
    }

    fn new_line(&mut self) {
        self.out.push(b'\n');
        self.out.resize(self.out.len() + 4 * self.depth, b' ');
    }

    fn write_name(&mut self, index: usize, name: &str) {
        if index > 0 {
            self.out.push(b',');
        }
        self.new_line();
        write_string(&mut self.out, name.as_bytes());
        self.out.extend(b": ");
    }

    /// Writes a part of a tensor: all elements at this position of the dimensions before `dimension`.
    fn write_value(&mut self, output: &Output<'_>, dimension: usize, elements: std::ops::Range<usize>) {
        let Some(&size) = output.tensor.shape().get(dimension) else {
            self.write_leaves(output, elements, b"");
            return;
        };
        self.out.push(b'[');
        self.depth += 1;
        self.write_elements(output, dimension, elements);
        self.depth -= 1;
        if size > 0 && !self.is_single_line {
            self.new_line();
        }
        self.out.push(b']');
    }

    /// Writes the contents of such a part, without brackets.
    fn write_elements(&mut self, output: &Output<'_>, dimension: usize, elements: std::ops::Range<usize>) {
        let shape = output.tensor.shape();
        let size = shape[dimension] as usize;
        if size == 0 {
            return;
        }
        let separator = if self.is_single_line {
            b", ".to_vec()
        } else {
            self.new_line();
            [b",\n".to_vec(), vec![b' '; 4 * self.depth]].concat()
        };
        if dimension + 1 == shape.len() {
            self.write_leaves(output, elements, &separator);
            return;
        }
        let stride = elements.len() / size;
        for index in 0..size {
            if index > 0 {
                self.out.extend_from_slice(&separator);
            }
            let start = elements.start + index * stride;
            self.write_value(output, dimension + 1, start..start + stride);
        }
    }

    fn write_leaves(&mut self, output: &Output<'_>, elements: std::ops::Range<usize>, separator: &[u8]) {
        let buffer = match output.tensor.elements() {
            Elements::Numbers(buffer) => buffer.as_ref(),
            Elements::Strings(strings) => {
                for index in elements.clone() {
                    if index > elements.start {
                        self.out.extend_from_slice(separator);
                    }
                    self.write_text(strings.get(index), output.is_base64);
                }
                return;
            }
        };
        let Some(size) = output.tensor.dtype().size() else { return };
        let bytes = &buffer[elements.start * size..elements.end * size];
        write_numbers(&mut self.out, output.tensor.dtype(), bytes, separator, Subnormals::Flushed);
    }

    fn write_text(&mut self, text: &[u8], is_base64: bool) {
        if !is_base64 {
            write_string(&mut self.out, text);
            return;
        }
        self.out.push(b'{');
        self.depth += 1;
        self.new_line();
        self.out.extend(b"\"b64\": \"");
        base64::encode(text, &mut self.out);
        self.out.push(b'"');
        self.depth -= 1;
        self.new_line();
        self.out.push(b'}');
    }
}

/// Writes the elements of a dtype of numbers with a separator between them.
pub(super) fn write_numbers(out: &mut Vec<u8>, dtype: DType, bytes: &[u8], separator: &[u8], subnormals: Subnormals) {
    match dtype {
        DType::FLOAT if subnormals == Subnormals::Kept => {
            join(out, bytes, separator, |text, bytes| single_text_kept(text, f32::from_le_bytes(bytes)));
        }
        DType::DOUBLE if subnormals == Subnormals::Kept => {
            join(out, bytes, separator, |text, bytes| double_text_kept(text, f64::from_le_bytes(bytes)));
        }
        DType::FLOAT => join(out, bytes, separator, |text, bytes| single_text(text, f32::from_le_bytes(bytes))),
        DType::DOUBLE => join(out, bytes, separator, |text, bytes| double_text(text, f64::from_le_bytes(bytes))),
        DType::INT8 => join(out, bytes, separator, |text, bytes| signed_text(text, i8::from_le_bytes(bytes))),
        DType::INT16 => join(out, bytes, separator, |text, bytes| signed_text(text, i16::from_le_bytes(bytes))),
        DType::INT32 => join(out, bytes, separator, |text, bytes| signed_text(text, i32::from_le_bytes(bytes))),
        DType::INT64 => join(out, bytes, separator, |text, bytes| signed_text(text, i64::from_le_bytes(bytes))),
        DType::UINT8 => join(out, bytes, separator, |text, [byte]| unsigned_text(text, 0, u64::from(byte))),
        DType::UINT32 => {
            join(out, bytes, separator, |text, bytes| unsigned_text(text, 0, u64::from(u32::from_le_bytes(bytes))));
        }
        DType::UINT64 => {
            join(out, bytes, separator, |text, bytes| unsigned_text(text, 0, u64::from_le_bytes(bytes)));
        }
        DType::BOOL => join(out, bytes, separator, |text, [byte]| {
            text[..8].copy_from_slice(if byte == 0 { b"false   " } else { b"true    " });
            5 - usize::from(byte != 0)
        }),
        DType::UINT16 => {
            join(out, bytes, separator, |text, bytes| unsigned_text(text, 0, u64::from(u16::from_le_bytes(bytes))));
        }
        DType::HALF => {
            join(out, bytes, separator, |text, bytes| single_text(text, f16::from_le_bytes(bytes).to_f32()));
        }
        // Tensors of other dtypes are accepted only without elements.
        _ => {}
    }
}

/// Writes numbers, given as bytes, with a separator between them.
#[inline]
fn join<const SIZE: usize>(
    out: &mut Vec<u8>,
    bytes: &[u8],
    separator: &[u8],
    write: impl Fn(&mut Text, [u8; SIZE]) -> usize,
) {
    /// The number of numbers for which memory is reserved in each step: few reservations, which still fit the cache.
    const CHUNK: usize = 64;
    let (numbers, _) = bytes.as_chunks::<SIZE>();
    if numbers.is_empty() {
        return;
    }
    let mut padded: Text = [0; _];
    let is_short = padded.get_mut(..separator.len()).map(|start| start.copy_from_slice(separator)).is_some();
    for numbers in numbers.chunks(CHUNK) {
        let start = out.len();
        out.resize(start + numbers.len() * (float::LONGEST + separator.len()) + 2 * padded.len(), 0);
        let room = &mut out[start..];
        let mut at = 0;
        for &number in numbers {
            at += write(text_at(room, at), number);
            if is_short {
                *text_at(room, at) = padded;
            } else {
                room[at..at + separator.len()].copy_from_slice(separator);
            }
            at += separator.len();
        }
        out.truncate(start + at);
    }
    out.truncate(out.len() - separator.len());
}

#[inline]
fn text_at(room: &mut [u8], at: usize) -> &mut Text {
    room[at..].first_chunk_mut().expect("room was made")
}

/// Writes an integer. Returns the length of the text.
#[inline]
fn signed_text(text: &mut Text, value: impl Into<i64>) -> usize {
    let value = value.into();
    text[0] = b'-';
    unsigned_text(text, usize::from(value < 0), value.unsigned_abs())
}

/// Writes an integer at this position. Returns the end of the text.
#[inline]
fn unsigned_text(text: &mut Text, at: usize, value: u64) -> usize {
    const ASCII: u64 = u64::from_ne_bytes([b'0'; 8]);
    const EIGHT_DIGITS: u64 = 100_000_000;
    if value < EIGHT_DIGITS {
        let digits = split_eight_digits(value);
        let zeros = (digits.trailing_zeros() / 8).min(7);
        text[at..at + 8].copy_from_slice(&((digits | ASCII) >> (8 * zeros)).to_le_bytes());
        return at + 8 - zeros as usize;
    }
    let at = long_text(text, at, value / EIGHT_DIGITS);
    text[at..at + 8].copy_from_slice(&(split_eight_digits(value % EIGHT_DIGITS) | ASCII).to_le_bytes());
    at + 8
}

#[inline(never)]
fn long_text(text: &mut Text, at: usize, value: u64) -> usize {
    unsigned_text(text, at, value)
}
