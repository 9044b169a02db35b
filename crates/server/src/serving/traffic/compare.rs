//! Comparison of the answers of two versions.

use half::f16;
use servable_model::tensor::{DType, Elements, Tensor, shape_text};

/// The allowed difference of two numbers: `absolute + relative × |live|`.
#[derive(Clone, Copy)]
struct Tolerance {
    absolute: f64,
    relative: f64,
}

/// Wide enough for another order of summation, and too narrow for another model.
const SINGLE: Tolerance = Tolerance { absolute: 1e-6, relative: 1e-4 };
const HALF: Tolerance = Tolerance { absolute: 1e-3, relative: 1e-2 };

/// Describes how a tensor differs from the live one; `None` if they are alike. Alike means the same dtype and shape,
/// floats within tolerance (NaN equals NaN), and all other values equal.
pub(crate) fn difference(live: &Tensor, shadow: &Tensor) -> Option<String> {
    if live.dtype() != shadow.dtype() {
        return Some(format!("dtype is {}, live {}", shadow.dtype(), live.dtype()));
    }
    if live.shape() != shadow.shape() {
        return Some(format!("shape is {}, live {}", shape_text(shadow.shape()), shape_text(live.shape())));
    }
    match (live.elements(), shadow.elements()) {
        (Elements::Strings(live), Elements::Strings(shadow)) => {
            let index = live.iter().zip(shadow.iter()).position(|(live, shadow)| live != shadow)?;
            Some(format!("string {index} differs"))
        }
        (Elements::Numbers(live_bytes), Elements::Numbers(shadow_bytes)) => {
            let (live_bytes, shadow_bytes) = (live_bytes.as_ref(), shadow_bytes.as_ref());
            if live_bytes == shadow_bytes {
                return None;
            }
            number_difference(live.dtype(), live_bytes, shadow_bytes)
        }
        _ => Some("one holds strings and the other numbers".to_owned()),
    }
}

fn number_difference(dtype: DType, live: &[u8], shadow: &[u8]) -> Option<String> {
    match dtype {
        DType::FLOAT | DType::COMPLEX64 => {
            float_difference(live, shadow, SINGLE, |b: [u8; 4]| f32::from_le_bytes(b).into())
        }
        DType::DOUBLE | DType::COMPLEX128 => float_difference(live, shadow, SINGLE, f64::from_le_bytes),
        DType::BFLOAT16 => {
            float_difference(live, shadow, HALF, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16).into())
        }
        DType::HALF => float_difference(live, shadow, HALF, |b| f16::from_le_bytes(b).to_f64()),
        _ => {
            let size = dtype.size().unwrap_or(1);
            let index = live.iter().zip(shadow).position(|(live, shadow)| live != shadow)? / size;
            Some(format!("element {index} differs"))
        }
    }
}

fn float_difference<const N: usize>(
    live: &[u8],
    shadow: &[u8],
    tolerance: Tolerance,
    decode: impl Fn([u8; N]) -> f64,
) -> Option<String> {
    let pairs = live.as_chunks::<N>().0.iter().zip(shadow.as_chunks::<N>().0);
    for (index, (&live, &shadow)) in pairs.enumerate() {
        let (live, shadow) = (decode(live), decode(shadow));
        // The difference of equal infinities is NaN.
        let is_alike = live.total_cmp(&shadow).is_eq()
            || (live.is_nan() && shadow.is_nan())
            || (live - shadow).abs() <= tolerance.absolute + tolerance.relative * live.abs() && live.is_finite();
        if !is_alike {
            return Some(format!("element {index} is {shadow}, live {live}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use servable_model::tensor::Buffer;

    fn numbers(dtype: DType, bytes: &[u8]) -> Tensor {
        let count = (bytes.len() / dtype.size().expect("numbers")) as i64;
        Tensor::from_numbers(dtype, vec![count], Buffer::Shared(bytes.to_vec().into()))
    }

    fn floats(values: &[f32]) -> Tensor {
        numbers(DType::FLOAT, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
    }

    fn strings(values: &[&str]) -> Tensor {
        Tensor::from_strings(vec![values.len() as i64], values.iter().collect())
    }

    #[test]
    fn floats_are_alike_within_tolerance_and_nothing_else_is() {
        let differences = [
            (floats(&[1.0, f32::NAN, f32::INFINITY]), floats(&[1.000_05, f32::NAN, f32::INFINITY]), None),
            (floats(&[0.0]), floats(&[5e-7]), None),
            (floats(&[1.0, 2.0]), floats(&[1.0, 2.5]), Some("element 1 is 2.5, live 2")),
            (floats(&[f32::INFINITY]), floats(&[1.0]), Some("element 0 is 1, live inf")),
            (floats(&[1.0]), floats(&[f32::NAN]), Some("element 0 is NaN, live 1")),
            (floats(&[1.0]), floats(&[1.0, 1.0]), Some("shape is [2], live [1]")),
            (floats(&[1.0]), strings(&["1"]), Some("dtype is string, live float")),
            (strings(&["a", "b"]), strings(&["a", "c"]), Some("string 1 differs")),
            (
                numbers(DType::INT32, &[1, 0, 0, 0, 2, 0, 0, 0]),
                numbers(DType::INT32, &[1, 0, 0, 0, 3, 0, 0, 0]),
                Some("element 1 differs"),
            ),
            // 1.0 and the next half-precision number, and 1.0 and 2.0.
            (numbers(DType::HALF, &[0x00, 0x3c]), numbers(DType::HALF, &[0x01, 0x3c]), None),
            (numbers(DType::HALF, &[0x00, 0x3c]), numbers(DType::HALF, &[0x00, 0x40]), Some("element 0 is 2, live 1")),
            (
                numbers(DType::BFLOAT16, &[0x80, 0x3f]),
                numbers(DType::BFLOAT16, &[0x00, 0x40]),
                Some("element 0 is 2, live 1"),
            ),
        ];
        for (live, shadow, expected) in differences {
            assert_eq!(difference(&live, &shadow).as_deref(), expected);
        }
    }
}
