//! Features of serialized examples as tensors, for models whose runtime does not parse examples itself.
//!
//! Results and errors are those of TensorFlow's `ParseExampleV2` for dense features: a feature that occurs more than
//! once counts the last time, a feature without a list is missing, and a list has exactly as many values as the shape.
//! Beyond that, a tensor may have any dtype of numbers and may consist of several features, which are the columns of a
//! matrix.
//!
//! Of several faults in one example, the one whose feature is declared first is reported.

use half::{bf16, f16};

use crate::tensor_proto::{MemoryBudget, TensorError};
use crate::wire::{self, Field, Malformed, Reader, Value};
use servable_model::error::{Result, ServingError, no_memory};
use servable_model::tensor::{
    ALIGNMENT, AlignedBytes, Buffer, DType, Elements, Strings, Tensor, element_count, shape_text,
};

/// How much of an example that cannot be read is quoted, in bytes.
const QUOTED: usize = 256;

/// A feature of an example.
#[derive(Clone, Debug)]
pub struct Feature {
    /// The name in examples.
    pub name: String,
    /// The shape of its values in one example; empty for a single value.
    pub shape: Vec<i64>,
    /// What an example without the feature means.
    pub missing: Missing,
}

/// What an example without a feature means.
#[derive(Clone, Debug)]
pub enum Missing {
    /// An error.
    Refused,
    /// NaN, in tensors of floats.
    NotANumber,
    /// These values, of the dtype of the tensor: as many as the shape of the feature has, or one that is repeated.
    Values(Tensor),
}

/// A tensor that is made of examples, with the examples as axis 0.
#[derive(Clone, Debug)]
pub struct FeatureTensor {
    /// The dtype: strings, or any integers, floats or booleans of up to 64 bits.
    pub dtype: DType,
    /// The shape of the part of one example.
    pub shape: Vec<i64>,
    /// The features whose values follow each other in that part; usually one.
    pub features: Vec<Feature>,
}

impl FeatureTensor {
    /// A tensor of one feature.
    pub fn of(dtype: DType, feature: Feature) -> Self {
        Self { dtype, shape: feature.shape.clone(), features: vec![feature] }
    }

    /// A matrix with a row for each example, whose columns are the features in order.
    pub fn matrix(dtype: DType, features: Vec<Feature>) -> Self {
        let columns = features.iter().map(|feature| element_count(&feature.shape).unwrap_or_default() as i64).sum();
        Self { dtype, shape: vec![columns], features }
    }
}

/// The list that a feature has: its number in `tensorflow.Feature`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    Bytes = 1,
    Float = 2,
    Int64 = 3,
}

impl List {
    /// The list that fills tensors of a dtype.
    fn of(dtype: DType) -> Option<Self> {
        Some(match dtype {
            DType::STRING => Self::Bytes,
            DType::FLOAT | DType::DOUBLE | DType::HALF | DType::BFLOAT16 => Self::Float,
            DType::BOOL
            | DType::INT8
            | DType::INT16
            | DType::INT32
            | DType::INT64
            | DType::UINT8
            | DType::UINT16
            | DType::UINT32
            | DType::UINT64 => Self::Int64,
            _ => return None,
        })
    }

    /// Its dtype, in messages.
    fn dtype(self) -> DType {
        match self {
            Self::Bytes => DType::STRING,
            Self::Float => DType::FLOAT,
            Self::Int64 => DType::INT64,
        }
    }

    /// The word for its values, in messages.
    fn noun(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Float => "float",
            Self::Int64 => "int64",
        }
    }
}

/// Where the values of a feature are written.
#[derive(Debug)]
struct Slot {
    name: String,
    shape: Vec<i64>,
    /// The tensor, by position.
    tensor: usize,
    dtype: DType,
    list: List,
    /// The number of its values.
    len: usize,
    /// The values of an example without the feature; `None` if each must have it.
    default: Option<Fill>,
}

/// The values of a missing feature, all of them.
#[derive(Debug)]
enum Fill {
    Numbers(Vec<u8>),
    Strings(Vec<Vec<u8>>),
}

/// A tensor without its values.
#[derive(Debug)]
struct Layout {
    dtype: DType,
    shape: Vec<i64>,
    /// The number of values of one example.
    len: usize,
    /// The bytes that these take at most, without those of strings from examples.
    row_bytes: usize,
}

/// Parses examples to tensors.
#[derive(Debug)]
pub struct FeatureParser {
    tensors: Vec<Layout>,
    slots: Vec<Slot>,
    /// The slots, sorted by name.
    by_name: Vec<usize>,
    takes_integers: bool,
}

impl FeatureParser {
    /// A parser for these tensors.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if a dtype, a shape or a default cannot be, or if two features have one name.
    pub fn new(tensors: Vec<FeatureTensor>) -> Result<Self> {
        let (mut layouts, mut slots) = (Vec::with_capacity(tensors.len()), Vec::new());
        for (tensor, FeatureTensor { dtype, shape, features }) in tensors.into_iter().enumerate() {
            let list = List::of(dtype).ok_or_else(|| invalid(format!("examples have no features of {dtype}")))?;
            let size = dtype.size().unwrap_or(size_of::<(usize, usize)>());
            let (mut row_len, mut row_bytes) = (0_usize, 0_usize);
            for feature in features {
                let slot = slot(feature, tensor, dtype, list)?;
                row_len = row_len.saturating_add(slot.len);
                row_bytes = row_bytes.saturating_add(slot.len.saturating_mul(size));
                if let Some(Fill::Strings(strings)) = &slot.default {
                    row_bytes = row_bytes.saturating_add(strings.iter().map(Vec::len).sum());
                }
                slots.push(slot);
            }
            if element_count(&shape) != Some(row_len) {
                let text = format!("features with {row_len} values make no tensor of shape {}", shape_text(&shape));
                return Err(invalid(text));
            }
            layouts.push(Layout { dtype, shape, len: row_len, row_bytes });
        }
        let mut by_name: Vec<usize> = (0..slots.len()).collect();
        by_name.sort_by(|&one, &other| slots[one].name.cmp(&slots[other].name));
        if let Some(twice) = by_name.windows(2).find(|pair| slots[pair[0]].name == slots[pair[1]].name) {
            return Err(invalid(format!("the feature {} is declared twice", slots[twice[0]].name)));
        }
        Ok(Self { tensors: layouts, slots, by_name, takes_integers: false })
    }

    /// The same parser, which also takes integers for features of floats.
    ///
    /// JSON has one kind of number: `1` in an example becomes an integer, and `1.0` a float.
    #[must_use]
    pub fn taking_integers(self) -> Self {
        Self { takes_integers: true, ..self }
    }

    /// The tensors, in the order in which they were declared.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if an example cannot be read or does not have the features that were declared, or if the
    /// tensors would take far more memory than the examples. `RESOURCE_EXHAUSTED` if there is no memory for them.
    pub fn parse(&self, examples: &Strings) -> Result<Vec<Tensor>> {
        self.check_size(examples)?;
        let count = examples.len();
        let mut tensors: Vec<Values> = self.tensors.iter().map(|layout| Values::new(layout, count)).collect();
        let mut found = vec![None; self.slots.len()];
        for (index, example) in examples.iter().enumerate() {
            found.fill(None);
            self.find(example, &mut found).map_err(|Malformed| unreadable(example))?;
            for (slot, feature) in self.slots.iter().zip(&found) {
                self.fill(slot, index, *feature, &mut tensors[slot.tensor])?;
            }
        }
        let tensor = |(layout, values): (&Layout, Values)| values.into_tensor(layout, count);
        Ok(self.tensors.iter().zip(tensors).map(tensor).collect())
    }

    /// Checks that the tensors take an amount of memory that is in proportion to the examples.
    fn check_size(&self, examples: &Strings) -> Result<()> {
        let mut budget = MemoryBudget::for_message(examples.iter().map(<[u8]>::len).sum());
        let row = self.tensors.iter().fold(0_usize, |sum, layout| sum.saturating_add(layout.row_bytes));
        budget.take(examples.len(), row).map_err(|error| match error {
            TensorError::NoMemory { wanted } => no_memory(wanted),
            _ => invalid(format!(
                "Input is too large: {} examples make tensors of {row} bytes for each of them",
                examples.len()
            )),
        })
    }

    /// Finds the serialized features of an example: the last of each name that has a list.
    fn find<'a>(&self, example: &'a [u8], found: &mut [Option<&'a [u8]>]) -> Result<(), Malformed> {
        let mut guess = 0;
        let mut fields = Reader::new(example);
        while let Some(field) = fields.next_field()? {
            let Field { number: 1, value: Value::Length(features) } = field else { continue };
            let mut features = fields.nested(features)?;
            while let Some(field) = features.next_field()? {
                let Field { number: 1, value: Value::Length(entry) } = field else { return Err(Malformed) };
                let (name, feature) = entry_parts(features.entry(entry))?;
                if let Some(slot) = self.slot(name, &mut guess)
                    && !feature.is_empty()
                {
                    found[slot] = Some(feature);
                }
            }
        }
        Ok(())
    }

    /// The slot of a feature. `guess` is the position of the next name, since most examples are sorted.
    fn slot(&self, name: &[u8], guess: &mut usize) -> Option<usize> {
        let name_at = |position: usize| self.slots[self.by_name[position]].name.as_bytes();
        let position = if *guess < self.by_name.len() && name_at(*guess) == name {
            *guess
        } else {
            self.by_name.binary_search_by(|&slot| self.slots[slot].name.as_bytes().cmp(name)).ok()?
        };
        *guess = position + 1;
        Some(self.by_name[position])
    }

    /// Writes the values of a feature of one example.
    fn fill(&self, slot: &Slot, index: usize, feature: Option<&[u8]>, values: &mut Values) -> Result<()> {
        let Some(feature) = feature else {
            return match &slot.default {
                Some(default) => {
                    values.append_default(default);
                    Ok(())
                }
                None => Err(invalid(format!(
                    "Name: <unknown>, Feature: {} (data type: {}) is required but could not be found.",
                    slot.name,
                    slot.list.dtype()
                ))),
            };
        };
        let fault = |what: String| invalid(format!("Name: <unknown>, Key: {}, Index: {index}.  {what}", slot.name));
        let (list, content) = list_of(feature).ok_or_else(|| invalid("Unsupported datatype."))?;
        if list != slot.list && !(self.takes_integers && list == List::Int64 && slot.list == List::Float) {
            return Err(fault(format!(
                "Data types don't match. Data type: {} but expected type: {}",
                list.dtype(),
                slot.list.dtype()
            )));
        }
        let count = values.append(slot, list, content).map_err(|refusal| match refusal {
            Refusal::Malformed => fault("Can't parse serialized Example.".to_owned()),
            Refusal::OutOfRange(value) => fault(format!("Value {value} does not fit data type: {}", slot.dtype)),
        })?;
        if count == slot.len {
            return Ok(());
        }
        Err(fault(format!(
            "Number of {} values != expected.  Values size: {count} but output shape: {}",
            slot.list.noun(),
            shape_text(&slot.shape)
        )))
    }
}

fn slot(feature: Feature, tensor: usize, dtype: DType, list: List) -> Result<Slot> {
    let Feature { name, shape, missing } = feature;
    let shown = shape_text(&shape);
    let fits = |&len: &usize| len.saturating_mul(size_of::<(usize, usize)>()) <= MemoryBudget::FLOOR;
    let len = element_count(&shape).filter(fits);
    let len = len.ok_or_else(|| invalid(format!("the feature {name} cannot have the shape {shown}")))?;
    let default = match missing {
        Missing::Refused => None,
        Missing::NotANumber => Some(Fill::nan(dtype, len).ok_or_else(|| invalid(format!("{dtype} has no NaN")))?),
        Missing::Values(values) => Some(Fill::of(&values, dtype, len).ok_or_else(|| {
            let (found, found_shape) = (values.dtype(), shape_text(values.shape()));
            invalid(format!("the feature {name} of {dtype}{shown} has a default of {found}{found_shape}"))
        })?),
    };
    Ok(Slot { name, shape, tensor, dtype, list, len, default })
}

impl Fill {
    /// NaNs; `None` if the dtype has none.
    fn nan(dtype: DType, len: usize) -> Option<Self> {
        let mut nan = AlignedBytes::new(ALIGNMENT);
        push_float(&mut nan, dtype, f32::NAN);
        (List::of(dtype) == Some(List::Float)).then(|| Self::Numbers(nan.repeat(len)))
    }

    /// As many values as a feature has; `None` if the tensor has another number of values, or another dtype.
    fn of(tensor: &Tensor, dtype: DType, len: usize) -> Option<Self> {
        let count = tensor.len();
        if tensor.dtype() != dtype || (count != len && count != 1) {
            return None;
        }
        let times = if count == len { 1 } else { len };
        Some(match tensor.elements() {
            Elements::Numbers(buffer) => Self::Numbers(buffer.as_ref().repeat(times)),
            Elements::Strings(strings) => {
                let strings: Vec<Vec<u8>> = strings.iter().map(<[u8]>::to_vec).collect();
                Self::Strings(std::iter::repeat_n(strings, times).flatten().collect())
            }
        })
    }
}

/// The name and the serialized feature of an entry, both of which must be there.
fn entry_parts(mut entry: Reader<'_>) -> Result<(&[u8], &[u8]), Malformed> {
    let (mut name, mut feature) = (None, None);
    while let Some(field) = entry.next_field()? {
        match field {
            Field { number: 1, value: Value::Length(content) } => name = Some(content),
            Field { number: 2, value: Value::Length(content) } => feature = Some(content),
            _ => return Err(Malformed),
        }
    }
    name.zip(feature).ok_or(Malformed)
}

/// The list of a serialized feature; `None` if it begins with anything else.
fn list_of(feature: &[u8]) -> Option<(List, &[u8])> {
    let Ok(Some(Field { number, value: Value::Length(content) })) = Reader::new(feature).next_field() else {
        return None;
    };
    let list = [List::Bytes, List::Float, List::Int64].into_iter().find(|&list| list as u32 == number)?;
    Some((list, content))
}

/// Why values are not taken.
enum Refusal {
    Malformed,
    OutOfRange(i64),
}

impl From<Malformed> for Refusal {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

/// The values of a tensor, which are appended in order.
enum Values {
    Numbers(AlignedBytes),
    Strings { bytes: Vec<u8>, ranges: Vec<(usize, usize)> },
}

impl Values {
    fn new(layout: &Layout, examples: usize) -> Self {
        match layout.dtype {
            DType::STRING => Self::Strings { bytes: Vec::new(), ranges: Vec::with_capacity(layout.len * examples) },
            _ => Self::Numbers(AlignedBytes::with_capacity(ALIGNMENT, layout.row_bytes * examples)),
        }
    }

    fn append_default(&mut self, default: &Fill) {
        match (self, default) {
            (Self::Numbers(numbers), Fill::Numbers(default)) => numbers.extend_from_slice(default),
            (Self::Strings { bytes, ranges }, Fill::Strings(default)) => {
                for string in default {
                    push_string(bytes, ranges, string);
                }
            }
            _ => unreachable!("a default has the dtype of its tensor"),
        }
    }

    /// Appends the values of a list, but at most as many as the feature has. Returns how many the list has.
    fn append(&mut self, slot: &Slot, list: List, content: &[u8]) -> Result<usize, Refusal> {
        let (mut count, most) = (0, slot.len);
        match self {
            Self::Strings { bytes, ranges } => each_string(content, |string| {
                count += 1;
                if count <= most {
                    push_string(bytes, ranges, string);
                }
            })?,
            Self::Numbers(numbers) if list == List::Float => each_float(content, |value| {
                count += 1;
                if count <= most {
                    push_float(numbers, slot.dtype, value);
                }
            })?,
            Self::Numbers(numbers) => {
                let mut misfit = None;
                each_integer(content, |value| {
                    count += 1;
                    if count <= most && !push_integer(numbers, slot.dtype, value) {
                        misfit.get_or_insert(value);
                    }
                })?;
                if let Some(value) = misfit {
                    return Err(Refusal::OutOfRange(value));
                }
            }
        }
        Ok(count)
    }

    fn into_tensor(self, layout: &Layout, examples: usize) -> Tensor {
        let shape = [&[examples as i64], &layout.shape[..]].concat();
        match self {
            Self::Numbers(numbers) => Tensor::from_numbers(layout.dtype, shape, Buffer::Owned(numbers)),
            Self::Strings { bytes, ranges } => Tensor::from_strings(shape, Strings::new(bytes.into(), ranges)),
        }
    }
}

fn push_string(bytes: &mut Vec<u8>, ranges: &mut Vec<(usize, usize)>, string: &[u8]) {
    let start = bytes.len();
    bytes.extend_from_slice(string);
    ranges.push((start, bytes.len()));
}

fn push_float(numbers: &mut AlignedBytes, dtype: DType, value: f32) {
    match dtype {
        DType::DOUBLE => numbers.extend_from_slice(&f64::from(value).to_le_bytes()),
        DType::HALF => numbers.extend_from_slice(&f16::from_f32(value).to_le_bytes()),
        DType::BFLOAT16 => numbers.extend_from_slice(&bf16::from_f32(value).to_le_bytes()),
        _ => numbers.extend_from_slice(&value.to_le_bytes()),
    }
}

/// Appends an integer as a number of any dtype; false if it does not fit.
fn push_integer(numbers: &mut AlignedBytes, dtype: DType, value: i64) -> bool {
    fn push<T: TryFrom<i64>, const N: usize>(
        numbers: &mut AlignedBytes,
        value: i64,
        bytes: impl Fn(T) -> [u8; N],
    ) -> bool {
        T::try_from(value).is_ok_and(|value| {
            numbers.extend_from_slice(&bytes(value));
            true
        })
    }
    match dtype {
        DType::INT8 => push(numbers, value, i8::to_le_bytes),
        DType::INT16 => push(numbers, value, i16::to_le_bytes),
        DType::INT32 => push(numbers, value, i32::to_le_bytes),
        DType::INT64 => push(numbers, value, i64::to_le_bytes),
        DType::UINT8 => push(numbers, value, u8::to_le_bytes),
        DType::UINT16 => push(numbers, value, u16::to_le_bytes),
        DType::UINT32 => push(numbers, value, u32::to_le_bytes),
        DType::UINT64 => push(numbers, value, u64::to_le_bytes),
        DType::BOOL => (value == 0 || value == 1) && push(numbers, value, u8::to_le_bytes),
        DType::DOUBLE => push(numbers, value, |value: i64| (value as f64).to_le_bytes()),
        _ => {
            push_float(numbers, dtype, value as f32);
            true
        }
    }
}

fn each_string<'a>(list: &'a [u8], mut each: impl FnMut(&'a [u8])) -> Result<(), Malformed> {
    each_value(list, |value| match value {
        Value::Length(string) => {
            each(string);
            Ok(())
        }
        _ => Err(Malformed),
    })
}

fn each_float(list: &[u8], mut each: impl FnMut(f32)) -> Result<(), Malformed> {
    each_value(list, |value| {
        match value {
            Value::Length(packed) => {
                let (chunks, rest) = packed.as_chunks();
                if !rest.is_empty() {
                    return Err(Malformed);
                }
                for &chunk in chunks {
                    each(f32::from_le_bytes(chunk));
                }
            }
            Value::Fixed32(bytes) => each(f32::from_le_bytes(bytes)),
            _ => return Err(Malformed),
        }
        Ok(())
    })
}

fn each_integer(list: &[u8], mut each: impl FnMut(i64)) -> Result<(), Malformed> {
    each_value(list, |value| {
        match value {
            Value::Length(packed) => {
                wire::check_packed_varints(packed)?;
                wire::packed_varints(packed).for_each(|value| each(value as i64));
            }
            Value::Varint(value) => each(value as i64),
            _ => return Err(Malformed),
        }
        Ok(())
    })
}

/// Calls back for the values of a list, which is a message with one field.
fn each_value<'a>(list: &'a [u8], mut each: impl FnMut(Value<'a>) -> Result<(), Malformed>) -> Result<(), Malformed> {
    let mut fields = Reader::new(list);
    while let Some(field) = fields.next_field()? {
        if field.number == 1 {
            each(field.value)?;
        }
    }
    Ok(())
}

fn unreadable(example: &[u8]) -> ServingError {
    let (quoted, more) = match example.get(..QUOTED) {
        Some(beginning) if example.len() > QUOTED => (beginning, "..."),
        _ => (example, ""),
    };
    invalid([b"Could not parse example input, value: '", quoted, more.as_bytes(), b"'"].concat())
}

fn invalid(message: impl Into<Vec<u8>>) -> ServingError {
    ServingError::invalid_argument(message)
}

#[cfg(test)]
mod tests;
