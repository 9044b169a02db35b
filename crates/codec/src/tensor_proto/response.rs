//! `PredictResponse`. It is measured first, to size the buffer and to know lengths, which precede contents. Then it is
//! written in one pass.

use bytes::{BufMut, Bytes, BytesMut};

use super::values::{Integer, Layout, field_of};
use crate::wire::{length_field_len, put_length_field, put_length_tag, put_varint, varint_len};
use servable_model::tensor::{Buffer, DType, Elements, Strings, Tensor};

/// Smaller contents, in bytes, are copied: that is faster than a separate piece.
const LEAST_LENT: usize = 64 << 10;

const OUTPUTS: u32 = 1;
const MODEL_SPEC: u32 = 2;

/// A measured response.
#[derive(Debug)]
pub struct PredictResponse<'a> {
    outputs: Vec<Output<'a>>,
    name: &'a str,
    version: i64,
    signature_name: &'a str,
    len: usize,
}

#[derive(Debug)]
struct Output<'a> {
    alias: &'a str,
    tensor: TensorMessage<'a>,
    entry_len: usize,
}

impl<'a> PredictResponse<'a> {
    /// Measures a response: the outputs by alias, with the model, version and signature.
    ///
    /// With `as_tensor_content`, elements are written as raw bytes, instead of in the field of their dtype.
    pub fn new(
        outputs: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
        name: &'a str,
        version: i64,
        signature_name: &'a str,
        as_tensor_content: bool,
    ) -> Self {
        let outputs: Vec<_> = outputs
            .into_iter()
            .map(|(alias, tensor)| {
                let tensor = TensorMessage::new(tensor, as_tensor_content);
                let entry_len = length_field_len(1, alias.len()) + length_field_len(2, tensor.len);
                Output { alias, tensor, entry_len }
            })
            .collect();
        let mut response = Self { outputs, name, version, signature_name, len: 0 };
        response.len = response.outputs.iter().map(|output| length_field_len(OUTPUTS, output.entry_len)).sum::<usize>()
            + length_field_len(MODEL_SPEC, response.model_spec_len());
        response
    }

    /// The number of bytes that [`PredictResponse::encode`] writes.
    pub fn encoded_len(&self) -> usize {
        self.len
    }

    /// Writes the message.
    ///
    /// # Panics
    ///
    /// If `out` has no room for it.
    pub fn encode(&self, out: &mut impl BufMut) {
        for output in &self.outputs {
            output.encode_head(out);
            output.tensor.form.encode(output.tensor.tensor, out);
        }
        self.encode_model_spec(out);
    }

    /// Appends the message to `out`, except large contents whose memory has the layout of the message. These are lent
    /// as separate pieces. Returns the first piece, and the others.
    pub fn encode_lending(&self, mut out: BytesMut) -> (BytesMut, Vec<Bytes>) {
        let mut first = None;
        let mut others = Vec::new();
        for output in &self.outputs {
            output.encode_head(&mut out);
            let TensorMessage { tensor, form, .. } = output.tensor;
            let Some((number, elements)) = form.lent(tensor) else {
                form.encode(tensor, &mut out);
                continue;
            };
            put_length_tag(&mut out, number, elements.len());
            let before = out.split();
            match first {
                None => first = Some(before),
                Some(_) => others.push(before.freeze()),
            }
            others.push(elements.clone());
        }
        self.encode_model_spec(&mut out);
        let Some(first) = first else { return (out, others) };
        others.push(out.freeze());
        (first, others)
    }

    /// The number of bytes that [`PredictResponse::encode_lending`] lends.
    pub fn lent_len(&self) -> usize {
        let lent = |output: &Output<'_>| Some(output.tensor.form.lent(output.tensor.tensor)?.1.len());
        self.outputs.iter().filter_map(lent).sum()
    }

    fn encode_model_spec(&self, out: &mut impl BufMut) {
        put_length_tag(out, MODEL_SPEC, self.model_spec_len());
        put_text(out, 1, self.name);
        put_length_tag(out, 2, integer_field_len(self.version));
        put_integer_field(out, self.version);
        put_text(out, 3, self.signature_name);
    }

    fn model_spec_len(&self) -> usize {
        text_len(1, self.name) + length_field_len(2, integer_field_len(self.version)) + text_len(3, self.signature_name)
    }
}

impl Output<'_> {
    /// Writes everything before the elements.
    fn encode_head(&self, out: &mut impl BufMut) {
        put_length_tag(out, OUTPUTS, self.entry_len);
        put_length_field(out, 1, self.alias.as_bytes());
        put_length_tag(out, 2, self.tensor.len);
        self.tensor.encode_head(out);
    }
}

/// A tensor that was measured as a `TensorProto`.
#[derive(Debug)]
pub(super) struct TensorMessage<'a> {
    tensor: &'a Tensor,
    form: Form,
    shape_len: usize,
    pub(super) len: usize,
}

/// The encoding of the elements.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// No elements.
    Nothing,
    /// One field, whose bytes are those in memory.
    Raw { number: u32 },
    /// Packed varints, with this total length in bytes.
    Varints { number: u32, integer: Integer, len: usize },
    /// One field for each string.
    Strings,
    /// All lengths, with this total size in bytes, and then all strings, in one field of `len` bytes.
    StringContent { len: usize },
}

const DTYPE: u32 = 1;
const SHAPE: u32 = 2;
const CONTENT: u32 = 4;
const STRING: u32 = 8;

impl<'a> TensorMessage<'a> {
    pub(super) fn new(tensor: &'a Tensor, as_tensor_content: bool) -> Self {
        let form = Form::of(tensor, as_tensor_content);
        let shape_len = tensor.shape().iter().map(|&size| length_field_len(2, integer_field_len(size))).sum();
        let len = 1 + varint_len(tensor.dtype().0 as u64) + length_field_len(SHAPE, shape_len) + form.len(tensor);
        Self { tensor, form, shape_len, len }
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        self.encode_head(out);
        self.form.encode(self.tensor, out);
    }

    fn encode_head(&self, out: &mut impl BufMut) {
        put_varint(out, u64::from(DTYPE << 3));
        put_varint(out, self.tensor.dtype().0 as u64);
        put_length_tag(out, SHAPE, self.shape_len);
        for &size in self.tensor.shape() {
            put_length_tag(out, 2, integer_field_len(size));
            put_integer_field(out, size);
        }
    }
}

impl Form {
    fn of(tensor: &Tensor, as_tensor_content: bool) -> Self {
        if tensor.is_empty() {
            return Self::Nothing;
        }
        match (tensor.elements(), field_of(tensor.dtype())) {
            (Elements::Strings(strings), _) if as_tensor_content => {
                Self::StringContent { len: strings.iter().map(|s| varint_len(s.len() as u64) + s.len()).sum() }
            }
            (Elements::Strings(_), _) => Self::Strings,
            (Elements::Numbers(_), _) if as_tensor_content => Self::Raw { number: CONTENT },
            (Elements::Numbers(buffer), Some((number, Layout::Varint(integer)))) => {
                let mut len = 0;
                each_varint(buffer.as_ref(), tensor.dtype(), integer, |value| len += varint_len(value));
                Self::Varints { number, integer, len }
            }
            (Elements::Numbers(_), Some((number, _))) => Self::Raw { number },
            // The dtype of a tensor of numbers has a size, and each of these dtypes has a field.
            (Elements::Numbers(_), None) => Self::Raw { number: CONTENT },
        }
    }

    fn len(self, tensor: &Tensor) -> usize {
        match (self, tensor.elements()) {
            (Self::Raw { number }, Elements::Numbers(buffer)) => length_field_len(number, buffer.as_ref().len()),
            (Self::Varints { number, len, .. }, _) => length_field_len(number, len),
            (Self::StringContent { len }, _) => length_field_len(CONTENT, len),
            (Self::Strings, Elements::Strings(strings)) => {
                strings.iter().map(|string| length_field_len(STRING, string.len())).sum()
            }
            _ => 0,
        }
    }

    /// The field and the elements, if lending is better than copying.
    fn lent(self, tensor: &Tensor) -> Option<(u32, &Bytes)> {
        match (self, tensor.elements()) {
            (Self::Raw { number }, Elements::Numbers(Buffer::Shared(elements))) if elements.len() >= LEAST_LENT => {
                Some((number, elements))
            }
            _ => None,
        }
    }

    fn encode(self, tensor: &Tensor, out: &mut impl BufMut) {
        match (self, tensor.elements()) {
            (Self::Raw { number }, Elements::Numbers(buffer)) => put_length_field(out, number, buffer.as_ref()),
            (Self::Varints { number, integer, len }, Elements::Numbers(buffer)) => {
                put_length_tag(out, number, len);
                let mut staged = Staged::new(out);
                each_varint(buffer.as_ref(), tensor.dtype(), integer, |value| staged.put(value));
                staged.flush();
            }
            (Self::Strings, Elements::Strings(strings)) => {
                for string in strings.iter() {
                    put_length_field(out, STRING, string);
                }
            }
            (Self::StringContent { len }, Elements::Strings(strings)) => encode_string_content(strings, len, out),
            _ => {}
        }
    }
}

fn encode_string_content(strings: &Strings, len: usize, out: &mut impl BufMut) {
    put_length_tag(out, CONTENT, len);
    for string in strings.iter() {
        put_varint(out, string.len() as u64);
    }
    for string in strings.iter() {
        out.put_slice(string);
    }
}

/// Calls back with the varint of each element. Signed numbers are sign-extended, as in protobuf.
fn each_varint(elements: &[u8], dtype: DType, integer: Integer, mut found: impl FnMut(u64)) {
    fn each<const SIZE: usize>(elements: &[u8], mut found: impl FnMut([u8; SIZE])) {
        for &element in elements.as_chunks().0 {
            found(element);
        }
    }
    let signed = integer == Integer::Truncated { signed: true };
    match (integer, dtype.size(), signed) {
        (Integer::Narrow { bits, signed }, ..) => each(elements, |[byte]| found(narrow(byte, bits, signed))),
        (_, Some(1), true) => each(elements, |element| found(i64::from(i8::from_le_bytes(element)) as u64)),
        (_, Some(1), false) => each(elements, |element| found(u64::from(u8::from_le_bytes(element)))),
        (_, Some(2), true) => each(elements, |element| found(i64::from(i16::from_le_bytes(element)) as u64)),
        (_, Some(2), false) => each(elements, |element| found(u64::from(u16::from_le_bytes(element)))),
        (_, Some(4), true) => each(elements, |element| found(i64::from(i32::from_le_bytes(element)) as u64)),
        (_, Some(4), false) => each(elements, |element| found(u64::from(u32::from_le_bytes(element)))),
        _ => each(elements, |element| found(u64::from_le_bytes(element))),
    }
}

/// The number in the low bits of a byte.
fn narrow(byte: u8, bits: u32, signed: bool) -> u64 {
    let high = byte << (8 - bits);
    if signed { i64::from(high as i8 >> (8 - bits)) as u64 } else { u64::from(high >> (8 - bits)) }
}

/// A buffer of encoded varints, so that the output grows in steps instead of byte by byte.
struct Staged<'a, B: BufMut> {
    out: &'a mut B,
    bytes: [u8; 512],
    len: usize,
}

impl<'a, B: BufMut> Staged<'a, B> {
    fn new(out: &'a mut B) -> Self {
        Self { out, bytes: [0; 512], len: 0 }
    }

    fn put(&mut self, mut value: u64) {
        if self.len + 10 > self.bytes.len() {
            self.flush();
        }
        while value >= 0x80 {
            self.bytes[self.len] = value as u8 | 0x80;
            self.len += 1;
            value >>= 7;
        }
        self.bytes[self.len] = value as u8;
        self.len += 1;
    }

    fn flush(&mut self) {
        self.out.put_slice(&self.bytes[..self.len]);
        self.len = 0;
    }
}

/// The length of an integer as field 1 of a nested message. 0 is omitted, as in proto3.
fn integer_field_len(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value as u64) }
}

fn put_integer_field(out: &mut impl BufMut, value: i64) {
    if value != 0 {
        put_varint(out, 1 << 3);
        put_varint(out, value as u64);
    }
}

/// The length of a text field. An empty text is omitted, as in proto3.
fn text_len(number: u32, text: &str) -> usize {
    if text.is_empty() { 0 } else { length_field_len(number, text.len()) }
}

fn put_text(out: &mut impl BufMut, number: u32, text: &str) {
    if !text.is_empty() {
        put_length_field(out, number, text.as_bytes());
    }
}
