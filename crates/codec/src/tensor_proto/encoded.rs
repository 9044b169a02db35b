//! A `TensorProto` of a request. It is checked and measured first, and decoded once the model and the input are known.

use std::slice;

use bytes::Bytes;

use super::values;
use super::{MemoryBudget, TensorError};
use crate::schema::{self, check_packed_fixed};
use crate::wire::{self, Field, Malformed, Reader, Value};
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, DType, Strings, Tensor, element_count};

/// The maximum number of dimensions.
const MAX_RANK: usize = 254;

/// An encoded tensor: a well-formed message. [`EncodedTensor::decode`] checks whether it is a valid tensor.
#[derive(Clone, Debug)]
pub struct EncodedTensor<'a> {
    body: &'a Bytes,
    // The parts of the message, nearly always one.
    first: &'a [u8],
    others: Vec<&'a [u8]>,
    dtype: DType,
    shape: Vec<i64>, // not longer than one more than `MAX_RANK`
    content: &'a [u8],
}

impl<'a> EncodedTensor<'a> {
    /// An empty message, which is the value of a map entry without one.
    pub(super) fn new(body: &'a Bytes) -> Self {
        Self { body, first: &[], others: Vec::new(), dtype: DType::INVALID, shape: Vec::new(), content: &[] }
    }

    /// Merges a message into this one. Protobuf does so if a field that is not repeated occurs twice.
    pub(super) fn merge(&mut self, part: &'a [u8], mut fields: Reader<'a>) -> Result<(), Malformed> {
        match (self.first, part) {
            (_, []) => {}
            ([], part) => self.first = part,
            (_, part) => self.others.push(part),
        }
        while let Some(Field { number, value }) = fields.next_field()? {
            match (number, value) {
                (1, Value::Varint(number)) => self.dtype = DType(number as i32),
                (2, Value::Length(shape)) => self.merge_shape(fields.nested(shape)?)?,
                (4, Value::Length(content)) => self.content = content,
                (5 | 9, Value::Length(packed)) => check_packed_fixed(packed, 4)?,
                (6 | 12, Value::Length(packed)) => check_packed_fixed(packed, 8)?,
                (7 | 10 | 11 | 13 | 16 | 17, Value::Length(packed)) => wire::check_packed_varints(packed)?,
                (14, Value::Length(handle)) => schema::check(fields.nested(handle)?, schema::RESOURCE_HANDLE)?,
                (15, Value::Length(variant)) => schema::check(fields.nested(variant)?, &schema::VARIANT)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn merge_shape(&mut self, mut fields: Reader<'a>) -> Result<(), Malformed> {
        while let Some(field) = fields.next_field()? {
            let (2, Value::Length(dimension)) = (field.number, field.value) else { continue };
            let mut fields = fields.nested(dimension)?;
            let mut size = 0;
            while let Some(Field { number, value }) = fields.next_field()? {
                match (number, value) {
                    (1, Value::Varint(value)) => size = value as i64,
                    (2, Value::Length(name)) => drop(wire::text(name)?),
                    _ => {}
                }
            }
            if self.shape.len() <= MAX_RANK {
                self.shape.push(size);
            }
        }
        Ok(())
    }

    /// Decodes the tensor (`docs/spec/grpc_api.md` §12.1).
    ///
    /// Aligned raw content and all strings stay in the request body, and are not copied.
    ///
    /// # Errors
    ///
    /// If the message is not a valid tensor, exceeds the remaining budget, or has a dtype whose elements cannot be
    /// sent.
    pub fn decode(&self, budget: &mut MemoryBudget) -> Result<Tensor, TensorError> {
        if self.shape.len() > MAX_RANK {
            return Err(TensorError::Invalid);
        }
        let count = element_count(&self.shape).ok_or(TensorError::Invalid)?;
        match self.dtype {
            DType::STRING => {
                budget.take(count, size_of::<(usize, usize)>())?;
                let ranges = match (count, self.content) {
                    (0, _) => Vec::new(),
                    (_, []) => values::strings(self.values(8), |string| self.offset(string), count),
                    (_, content) => values::string_content(content, self.offset(content), count)?,
                };
                Ok(Tensor::from_strings(self.shape.clone(), Strings::new(self.body.clone(), ranges)))
            }
            DType::RESOURCE if count == 1 => Err(self.resource()?.refusal()),
            // The process of TensorFlow Serving terminates if there is not exactly one resource.
            DType::RESOURCE | DType::VARIANT => {
                // Only the operation that made a variant can read its content. An empty one is a variant as well.
                let is_filled = self.values(15).any(|value| matches!(value, Value::Length([_, ..])));
                Err(match (count, self.content) {
                    (1.., [_, ..]) => TensorError::Invalid,
                    (1.., []) if is_filled => TensorError::Invalid,
                    _ => TensorError::Opaque(self.dtype),
                })
            }
            dtype => {
                let size = dtype.size().ok_or(TensorError::Invalid)?;
                let buffer = match (count, self.content) {
                    (_, []) | (0, _) => {
                        budget.take(count, size)?;
                        Buffer::Owned(values::numbers(dtype, count, size, |number| self.values(number)))
                    }
                    (_, content) if Some(content.len()) == count.checked_mul(size) => self.raw(content, budget)?,
                    _ => return Err(TensorError::Invalid),
                };
                Ok(Tensor::from_numbers(dtype, self.shape.clone(), buffer))
            }
        }
    }

    /// The raw content: a slice of the body if that is aligned, or else a copy.
    fn raw(&self, content: &'a [u8], budget: &mut MemoryBudget) -> Result<Buffer, TensorError> {
        if self.dtype == DType::BOOL && content.iter().any(|&byte| byte > 1) {
            return Err(TensorError::Invalid); // neither true nor false
        }
        if content.as_ptr().addr().is_multiple_of(ALIGNMENT) {
            return Ok(Buffer::Shared(self.body.slice_ref(content)));
        }
        budget.take(content.len(), 1)?;
        Ok(Buffer::Owned(AlignedBytes::from_slice(ALIGNMENT, content)))
    }

    /// The handle of a tensor of one resource. It is empty if none was sent.
    fn resource(&self) -> Result<ResourceHandle<'a>, TensorError> {
        let message = match self.content {
            [] => match self.values(14).next() {
                Some(Value::Length(message)) => message,
                _ => &[],
            },
            content => {
                let (begin, end) = values::string_content(content, 0, 1)?[0];
                &content[begin..end]
            }
        };
        let checked = schema::check(Reader::new(message), schema::RESOURCE_HANDLE);
        checked.and_then(|()| ResourceHandle::read(message)).map_err(|_| TensorError::Invalid)
    }

    /// The offset of a part in the body.
    pub(super) fn offset(&self, part: &[u8]) -> usize {
        part.as_ptr().addr() - self.body.as_ptr().addr()
    }

    /// The values of a field in order. Packed values are still together.
    pub(super) fn values(&self, number: u32) -> impl Iterator<Item = Value<'a>> {
        let parts = slice::from_ref(&self.first).iter().chain(&self.others);
        parts.flat_map(move |&part| {
            let mut fields = Reader::new(part);
            std::iter::from_fn(move || fields.next_field().ok().flatten())
                .filter(move |field| field.number == number)
                .map(|field| field.value)
        })
    }
}

/// The fields of a `tensorflow.ResourceHandleProto` on which the error of the runtime depends.
#[derive(Default)]
struct ResourceHandle<'a> {
    container: &'a str,
    name: &'a str,
    hash_code: u64,
    type_name: &'a str,
}

impl<'a> ResourceHandle<'a> {
    fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut handle = Self::default();
        let mut fields = Reader::new(message);
        while let Some(Field { number, value }) = fields.next_field()? {
            match (number, value) {
                (2, Value::Length(text)) => handle.container = wire::text(text)?,
                (3, Value::Length(text)) => handle.name = wire::text(text)?,
                (4, Value::Varint(code)) => handle.hash_code = code,
                (5, Value::Length(text)) => handle.type_name = wire::text(text)?,
                _ => {}
            }
        }
        Ok(handle)
    }

    /// The error of the runtime for such an input.
    fn refusal(&self) -> TensorError {
        let Self { container, name, hash_code, type_name } = self;
        TensorError::Resource(if *container == "TensorHandle" {
            format!("The tensor with handle '{name}' is not in the session store.").into()
        } else {
            format!(
                "Invalid resource type hash code: {hash_code}(name: {name} type: {type_name}). Perhaps a resource tensor \
                 was being provided as a feed? That is not currently allowed. Please file an issue at \
                 https://github.com/tensorflow/tensorflow/issues/new, ideally with a short code snippet that leads to \
                 this error message."
            )
            .into()
        })
    }
}
