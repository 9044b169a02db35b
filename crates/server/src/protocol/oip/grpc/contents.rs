//! `InferTensorContents`: the elements of a tensor in the field of its datatype.

use servable_codec::open_inference::datatype;
use servable_codec::proto::inference::InferTensorContents;
use servable_model::error::{Result, ServingError};
use servable_model::tensor::{
    ALIGNMENT, AlignedBytes, Buffer, DType, Elements, Strings, Tensor, element_count, shape_text,
};

/// Makes a tensor from the typed fields of a request.
pub(super) fn tensor(name: &str, dtype: DType, shape: Vec<i64>, contents: InferTensorContents) -> Result<Tensor> {
    let fault = |text: String| ServingError::invalid_argument(format!("input {name:?}: {text}"));
    let count = element_count(&shape).ok_or_else(|| fault(format!("{} is no shape", shape_text(&shape))))?;
    let check = |found: usize, field: &str| {
        if found == count {
            return Ok(());
        }
        let shape = shape_text(&shape);
        Err(fault(format!("got {found} elements in {field}, want {count} for shape {shape}")))
    };
    if dtype == DType::STRING {
        let strings = &contents.bytes_contents;
        check(strings.len(), "bytes_contents")?;
        let strings: Strings = strings.iter().collect();
        return Ok(Tensor::from_strings(shape, strings));
    }
    let mut out = AlignedBytes::new(ALIGNMENT);
    let is_in_range = match dtype {
        DType::BOOL => fill(&mut out, contents.bool_contents, |value| Some([u8::from(value)])),
        DType::INT8 => fill(&mut out, contents.int_contents, |v| Some(i8::try_from(v).ok()?.to_le_bytes())),
        DType::INT16 => fill(&mut out, contents.int_contents, |v| Some(i16::try_from(v).ok()?.to_le_bytes())),
        DType::INT32 => fill(&mut out, contents.int_contents, |v| Some(v.to_le_bytes())),
        DType::INT64 => fill(&mut out, contents.int64_contents, |v| Some(v.to_le_bytes())),
        DType::UINT8 => fill(&mut out, contents.uint_contents, |v| Some(u8::try_from(v).ok()?.to_le_bytes())),
        DType::UINT16 => fill(&mut out, contents.uint_contents, |v| Some(u16::try_from(v).ok()?.to_le_bytes())),
        DType::UINT32 => fill(&mut out, contents.uint_contents, |v| Some(v.to_le_bytes())),
        DType::UINT64 => fill(&mut out, contents.uint64_contents, |v| Some(v.to_le_bytes())),
        DType::FLOAT => fill(&mut out, contents.fp32_contents, |v| Some(v.to_le_bytes())),
        DType::DOUBLE => fill(&mut out, contents.fp64_contents, |v| Some(v.to_le_bytes())),
        _ => return Err(fault(format!("{} can only be sent in raw_input_contents", name_of(dtype)))),
    };
    is_in_range.ok_or_else(|| fault(format!("a number is out of the range of {}", name_of(dtype))))?;
    check(out.len() / dtype.size().unwrap_or(1), field(dtype))?;
    Ok(Tensor::from_numbers(dtype, shape, Buffer::Owned(out)))
}

/// Appends values; `None` if one of them does not fit.
fn fill<T, const SIZE: usize>(
    out: &mut AlignedBytes,
    values: Vec<T>,
    convert: impl Fn(T) -> Option<[u8; SIZE]>,
) -> Option<()> {
    out.reserve(values.len() * SIZE);
    for value in values {
        out.extend_from_slice(&convert(value)?);
    }
    Some(())
}

/// The field that holds the elements of a dtype.
fn field(dtype: DType) -> &'static str {
    match dtype {
        DType::BOOL => "bool_contents",
        DType::INT8 | DType::INT16 | DType::INT32 => "int_contents",
        DType::INT64 => "int64_contents",
        DType::UINT8 | DType::UINT16 | DType::UINT32 => "uint_contents",
        DType::UINT64 => "uint64_contents",
        DType::FLOAT => "fp32_contents",
        DType::DOUBLE => "fp64_contents",
        _ => "bytes_contents",
    }
}

fn name_of(dtype: DType) -> String {
    datatype(dtype).map_or_else(|| dtype.name(), str::to_owned)
}

/// Whether typed fields can hold tensors of a dtype.
pub(super) fn has_field(dtype: DType) -> bool {
    datatype(dtype).is_some() && !matches!(dtype, DType::HALF | DType::BFLOAT16)
}

/// The typed fields that hold a tensor of a dtype that has one.
pub(super) fn contents(tensor: &Tensor) -> InferTensorContents {
    let mut contents = InferTensorContents::default();
    let bytes = match tensor.elements() {
        Elements::Numbers(buffer) => buffer.as_ref(),
        Elements::Strings(strings) => {
            contents.bytes_contents = strings.iter().map(|string| string.to_vec().into()).collect();
            return contents;
        }
    };
    match tensor.dtype() {
        DType::BOOL => contents.bool_contents = each(bytes, |[byte]| byte != 0),
        DType::INT8 => contents.int_contents = each(bytes, |b| i8::from_le_bytes(b).into()),
        DType::INT16 => contents.int_contents = each(bytes, |b| i16::from_le_bytes(b).into()),
        DType::INT32 => contents.int_contents = each(bytes, i32::from_le_bytes),
        DType::INT64 => contents.int64_contents = each(bytes, i64::from_le_bytes),
        DType::UINT8 => contents.uint_contents = each(bytes, |b| u8::from_le_bytes(b).into()),
        DType::UINT16 => contents.uint_contents = each(bytes, |b| u16::from_le_bytes(b).into()),
        DType::UINT32 => contents.uint_contents = each(bytes, u32::from_le_bytes),
        DType::UINT64 => contents.uint64_contents = each(bytes, u64::from_le_bytes),
        DType::FLOAT => contents.fp32_contents = each(bytes, f32::from_le_bytes),
        DType::DOUBLE => contents.fp64_contents = each(bytes, f64::from_le_bytes),
        _ => {}
    }
    contents
}

fn each<T, const SIZE: usize>(bytes: &[u8], convert: impl Fn([u8; SIZE]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|&element| convert(element)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use servable_codec::open_inference::raw_tensor;

    #[test]
    fn encoding_and_decoding_is_identity_for_every_datatype_with_a_field() {
        for number in 0..40 {
            let dtype = DType(number);
            if !has_field(dtype) {
                continue;
            }
            let data: &[u8] = match dtype {
                DType::STRING => b"\x01\0\0\0a\0\0\0\0",
                DType::BOOL => &[0, 1],
                _ => &[0xff, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0x3f][..2 * dtype.size().expect("numbers")],
            };
            let body = bytes::Bytes::copy_from_slice(data);
            let original = raw_tensor("x", dtype, vec![2], body).expect("well-formed data");
            let back = tensor("x", dtype, vec![2], contents(&original)).expect("it was a tensor");
            let bytes = |tensor: &Tensor| servable_codec::open_inference::raw_bytes(tensor).expect("short strings");
            assert_eq!(bytes(&back), bytes(&original), "{dtype}");
        }
    }

    #[test]
    fn contents_that_do_not_fit_are_refused() {
        let of_ints = |numbers: &[i32]| InferTensorContents { int_contents: numbers.to_vec(), ..Default::default() };
        for (dtype, numbers, expected) in [
            (DType::INT32, &[1][..], "got 1 elements in int_contents, want 2 for shape [2]"),
            (DType::INT8, &[1, 128], "a number is out of the range of INT8"),
            (DType::FLOAT, &[1, 2], "got 0 elements in fp32_contents, want 2 for shape [2]"),
            (DType::STRING, &[1, 2], "got 0 elements in bytes_contents, want 2 for shape [2]"),
            (DType::HALF, &[1, 2], "FP16 can only be sent in raw_input_contents"),
        ] {
            let error = tensor("x", dtype, vec![2], of_ints(numbers)).expect_err("it does not fit");
            assert_eq!(error.text(), format!("input \"x\": {expected}"));
        }
    }
}
