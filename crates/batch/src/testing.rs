//! Tensors for the tests of this module, written and read as plain values.

use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, DType, Elements, Tensor};

/// A tensor of `int64`.
pub(super) fn numbers(shape: &[i64], values: &[i64]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let bytes = AlignedBytes::from_slice(ALIGNMENT, &bytes);
    Tensor::from_numbers(DType::INT64, shape.to_vec(), Buffer::Owned(bytes))
}

/// A tensor of strings.
pub(super) fn strings(shape: &[i64], values: &[&str]) -> Tensor {
    Tensor::from_strings(shape.to_vec(), values.iter().collect())
}

/// The shape and the elements of a tensor of either kind, as text.
pub(super) fn text(tensor: &Tensor) -> String {
    let elements: Vec<String> = match tensor.elements() {
        Elements::Strings(strings) => strings.iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect(),
        Elements::Numbers(buffer) => {
            let words = buffer.as_ref().chunks(8).map(|word| word.try_into().expect("eight bytes"));
            words.map(|word| i64::from_le_bytes(word).to_string()).collect()
        }
    };
    format!("{:?} {}", tensor.shape(), elements.join(" "))
}
