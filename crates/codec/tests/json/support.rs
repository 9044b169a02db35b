//! Shorthands for signatures and tensors.

use servable_codec::json::{DEFAULT_MAX_NESTING, Format, PredictInput, decode_predict};
use servable_model::error::{Result, ServingError};
use servable_model::signature::{Signature, TensorSpec};
use servable_model::tensor::{Buffer, DType, Elements, Tensor, shape_text};

/// The dtype with this name in error messages.
pub(crate) fn dtype(name: &str) -> DType {
    (0..=123).map(DType).find(|dtype| dtype.name() == name).unwrap_or_else(|| panic!("no dtype {name}"))
}

/// A signature with inputs such as `a:float b:int32`.
pub(crate) fn signature(inputs: &str) -> Signature {
    let spec = |input: &str| {
        let (alias, name) = input.rsplit_once(':').expect("alias:dtype");
        TensorSpec { alias: alias.to_owned(), tensor_name: format!("{alias}:0"), dtype: dtype(name), shape: None }
    };
    let mut inputs: Vec<TensorSpec> = inputs.split_whitespace().map(spec).collect();
    inputs.sort_by(|a, b| a.alias.cmp(&b.alias));
    Signature { inputs, ..Signature::default() }
}

/// Decodes a body for a servable with one signature, under any name.
pub(crate) fn decode<'s>(signature: &'s Signature, body: &[u8]) -> Result<PredictInput<&'s Signature>> {
    decode_predict(body, DEFAULT_MAX_NESTING, |_| Ok::<_, ServingError>(signature))
}

/// The format and the tensors: `row x float[2] 1 2`.
pub(crate) fn describe(input: &PredictInput<&Signature>) -> String {
    let format = if input.format == Format::Row { "row" } else { "columnar" };
    let tensors = input.signature.inputs.iter().zip(&input.inputs);
    let tensors = tensors.map(|(spec, tensor)| format!("{} {}", spec.alias, describe_tensor(tensor)));
    std::iter::once(format.to_owned()).chain(tensors).collect::<Vec<_>>().join(" ")
}

fn describe_tensor(tensor: &Tensor) -> String {
    let values: Vec<String> = match tensor.elements() {
        Elements::Numbers(buffer) => numbers(tensor.dtype(), buffer.as_ref()),
        Elements::Strings(strings) => strings.iter().map(|string| string.escape_ascii().to_string()).collect(),
    };
    let head = format!("{}{}", tensor.dtype(), shape_text(tensor.shape()));
    std::iter::once(head).chain(values).collect::<Vec<_>>().join(" ")
}

fn numbers(dtype: DType, bytes: &[u8]) -> Vec<String> {
    macro_rules! texts {
        ($number:ty) => {
            bytes.as_chunks().0.iter().map(|&bytes| <$number>::from_le_bytes(bytes).to_string()).collect()
        };
    }
    match dtype {
        DType::FLOAT => texts!(f32),
        DType::DOUBLE => texts!(f64),
        DType::INT8 => texts!(i8),
        DType::INT16 => texts!(i16),
        DType::INT32 => texts!(i32),
        DType::INT64 => texts!(i64),
        DType::UINT32 => texts!(u32),
        DType::UINT64 => texts!(u64),
        _ => texts!(u8),
    }
}

/// A tensor whose elements are given as text.
pub(crate) fn tensor(name: &str, shape: &[i64], values: &[&str]) -> Tensor {
    macro_rules! bytes {
        ($number:ty) => {
            values.iter().flat_map(|value| value.parse::<$number>().expect("a number").to_le_bytes()).collect()
        };
    }
    let bytes: Vec<u8> = match name {
        "string" => return Tensor::from_strings(shape.to_vec(), values.iter().collect()),
        "float" => bytes!(f32),
        "double" => bytes!(f64),
        "int8" => bytes!(i8),
        "int16" => bytes!(i16),
        "int32" => bytes!(i32),
        "int64" => bytes!(i64),
        "uint8" => bytes!(u8),
        "uint32" => bytes!(u32),
        "uint64" => bytes!(u64),
        "bool" => values.iter().map(|&value| u8::from(value == "true")).collect(),
        _ => vec![0; values.len() * dtype(name).size().expect("a dtype of numbers")],
    };
    Tensor::from_numbers(dtype(name), shape.to_vec(), Buffer::Shared(bytes.into()))
}
