//! The builder of one input tensor.

use super::base64;
use super::dump::dump;
use super::number::{Number, to_f32};
use super::tape::{Node, Value};
use servable_model::error::{Result, ServingError};
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, DType, Strings, Tensor, element_count};

/// The maximum rank in TensorFlow.
const GREATEST_RANK: usize = 254;

/// The values of one input so far, in the memory layout of its tensor.
pub(super) struct Column {
    dtype: DType,
    /// Whether numbers are correctly rounded, with subnormal ones, instead of converted as in TensorFlow Serving.
    is_correctly_rounded: bool,
    pub(super) numbers: AlignedBytes,
    pub(super) strings: StringColumn,
}

/// Concatenated strings.
#[derive(Default)]
pub(super) struct StringColumn {
    pub(super) bytes: Vec<u8>,
    pub(super) ranges: Vec<(usize, usize)>,
}

impl StringColumn {
    pub(super) fn push(&mut self, string: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(string);
        self.ranges.push((start, self.bytes.len()));
    }

    /// Decodes base64, and appends the string; `None` if it is not base64.
    pub(super) fn push_base64(&mut self, text: &[u8]) -> Option<()> {
        let start = self.bytes.len();
        base64::decode(text, &mut self.bytes)?;
        self.ranges.push((start, self.bytes.len()));
        Some(())
    }
}

impl Column {
    pub(super) fn new(dtype: DType) -> Self {
        Self {
            dtype,
            is_correctly_rounded: false,
            numbers: AlignedBytes::new(ALIGNMENT),
            strings: StringColumn::default(),
        }
    }

    /// A column with correctly rounded numbers, for protocols that TensorFlow Serving lacks.
    pub(super) fn correctly_rounded(dtype: DType) -> Self {
        Self { is_correctly_rounded: true, ..Self::new(dtype) }
    }

    pub(super) fn is_correctly_rounded(&self) -> bool {
        self.is_correctly_rounded
    }

    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    /// Converts one leaf of the document and appends it.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if the leaf has another dtype or is out of range, `UNIMPLEMENTED` for dtypes without a JSON
    /// form.
    pub(super) fn push(&mut self, value: Value<'_>) -> Result<()> {
        if value.is_object() {
            return self.push_object(value);
        }
        let node = value.node();
        let appended = match self.dtype {
            DType::FLOAT if self.is_correctly_rounded => {
                number(node).map(|number| self.extend(&(number.as_f64() as f32).to_le_bytes()))
            }
            DType::FLOAT => number(node).map(|number| self.extend(&to_f32(number.as_f64()).to_le_bytes())),
            DType::DOUBLE => number(node).map(|number| self.extend(&number.as_f64().to_le_bytes())),
            DType::INT8 => integer::<i8>(node).map(|number| self.extend(&number.to_le_bytes())),
            DType::INT16 => integer::<i16>(node).map(|number| self.extend(&number.to_le_bytes())),
            DType::INT32 => integer::<i32>(node).map(|number| self.extend(&number.to_le_bytes())),
            DType::INT64 => integer::<i64>(node).map(|number| self.extend(&number.to_le_bytes())),
            DType::UINT8 => integer::<u8>(node).map(|number| self.extend(&number.to_le_bytes())),
            DType::UINT32 => integer::<u32>(node).map(|number| self.extend(&number.to_le_bytes())),
            DType::UINT64 => integer::<u64>(node).map(|number| self.extend(&number.to_le_bytes())),
            DType::BOOL => match node {
                Node::Bool(value) => Some(u8::from(value)),
                _ => None,
            }
            .map(|byte| self.extend(&[byte])),
            DType::STRING => value.string().map(|string| self.strings.push(string)),
            _ => {
                let message = [b"Conversion of JSON Value: ", &dump(value)[..], b" to type: "].concat();
                return Err(ServingError::unimplemented([message, self.dtype.name().into_bytes()].concat()));
            }
        };
        appended.ok_or_else(|| self.type_error(value))
    }

    fn push_object(&mut self, value: Value<'_>) -> Result<()> {
        if self.dtype != DType::STRING {
            return Err(self.type_error(value));
        }
        let Some(text) = value.base64() else {
            let message = [b"JSON Value: ", &dump(value)[..], b" not formatted correctly for base64 data"].concat();
            return Err(ServingError::invalid_argument(message));
        };
        self.strings.push_base64(text).ok_or_else(|| ServingError::invalid_argument("Unable to base64 decode"))
    }

    fn extend(&mut self, bytes: &[u8]) {
        self.numbers.extend_from_slice(bytes);
    }

    fn type_error(&self, value: Value<'_>) -> ServingError {
        let reason = format!(" Type: {} is not of expected type: {}", value.type_name(), self.dtype);
        ServingError::invalid_argument([b"JSON Value: ", &dump(value)[..], reason.as_bytes()].concat())
    }

    /// Builds the tensor. Surplus values are dropped.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if no tensor can have this rank or dtype.
    pub(super) fn finish(mut self, alias: &str, shape: Vec<i64>) -> Result<Tensor> {
        let unusable = || ServingError::invalid_argument(format!("tensor parsing error: {alias}"));
        let count = element_count(&shape).filter(|_| shape.len() <= GREATEST_RANK).ok_or_else(unusable)?;
        if self.dtype == DType::STRING {
            self.strings.ranges.truncate(count);
            return Ok(Tensor::from_strings(shape, Strings::new(self.strings.bytes.into(), self.strings.ranges)));
        }
        let size = self.dtype.size().ok_or_else(unusable)?;
        self.numbers.truncate(count * size);
        Ok(Tensor::from_numbers(self.dtype, shape, Buffer::Owned(self.numbers)))
    }
}

fn number(node: Node) -> Option<Number> {
    match node {
        Node::Unsigned(value) => Some(Number::Unsigned(value)),
        Node::Negative(value) => Some(Number::Negative(value)),
        Node::Double(value) => Some(Number::Double(value)),
        _ => None,
    }
}

fn integer<T: TryFrom<u64> + TryFrom<i64>>(node: Node) -> Option<T> {
    match node {
        Node::Unsigned(value) => value.try_into().ok(),
        Node::Negative(value) => value.try_into().ok(),
        _ => None,
    }
}
