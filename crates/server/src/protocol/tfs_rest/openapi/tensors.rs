//! Tensors in JSON: the schema of a value, and an example.

use serde_json::{Value, json};

use servable_model::signature::TensorSpec;
use servable_model::tensor::DType;

/// The maximum number of elements of an example. Larger ones would not help readers.
const MAX_EXAMPLE: i64 = 1000;

/// The direction of a tensor. The form of strings in answers differs from that in requests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Input,
    Output,
}

/// The schema of one element.
fn element(spec: &TensorSpec, direction: Direction) -> Value {
    let integer = |low: i64, high: u64| json!({"type": "integer", "minimum": low, "maximum": high});
    match spec.dtype {
        DType::FLOAT => json!({"type": "number", "format": "float"}),
        DType::DOUBLE => json!({"type": "number", "format": "double"}),
        DType::INT8 => integer(-0x80, 0x7f),
        DType::INT16 => integer(-0x8000, 0x7fff),
        DType::INT32 => json!({"type": "integer", "format": "int32", "minimum": i32::MIN, "maximum": i32::MAX}),
        DType::INT64 => json!({"type": "integer", "format": "int64", "minimum": i64::MIN, "maximum": i64::MAX}),
        DType::UINT8 => integer(0, 0xff),
        DType::UINT32 => integer(0, u32::MAX.into()),
        DType::UINT64 => integer(0, u64::MAX),
        DType::BOOL => json!({"type": "boolean"}),
        DType::STRING if direction == Direction::Input => {
            json!({"anyOf": [{"type": "string"}, {"$ref": "#/components/schemas/Base64"}]})
        }
        DType::STRING if spec.alias.ends_with("_bytes") => json!({"$ref": "#/components/schemas/Base64"}),
        DType::STRING => json!({"type": "string"}),
        _ => json!({}),
    }
}

/// The schema of a value of these dimensions, outermost first. If the rank is free, it is an element or any list.
pub(super) fn schema(spec: &TensorSpec, shape: Option<&[i64]>, direction: Direction) -> Value {
    let element = element(spec, direction);
    let Some(shape) = shape else { return json!({"anyOf": [element, {"type": "array"}]}) };
    shape.iter().rev().fold(element, |items, &size| list(&items, size))
}

/// The schema of a list of this size. A negative size is free.
pub(super) fn list(items: &Value, size: i64) -> Value {
    let mut list = json!({"type": "array", "items": items});
    if size >= 0 {
        list["minItems"] = size.into();
        list["maxItems"] = size.into();
    }
    list
}

/// A value of these dimensions. Free sizes are 1. `None` if it would be long.
pub(super) fn example(dtype: DType, shape: &[i64]) -> Option<Value> {
    let sizes = || shape.iter().map(|&size| if size < 0 { 1 } else { size });
    sizes().try_fold(1_i64, i64::checked_mul).filter(|&count| count <= MAX_EXAMPLE)?;
    let element = match dtype {
        DType::FLOAT | DType::DOUBLE => json!(1.0),
        DType::BOOL => json!(true),
        DType::STRING => json!("text"),
        _ => json!(1),
    };
    // A size of zero makes an empty list, independent of the sizes after it.
    let sizes: Vec<i64> = sizes().collect();
    let rank = sizes.iter().position(|&size| size == 0).map_or(sizes.len(), |zero| zero + 1);
    Some(sizes[..rank].iter().rev().fold(element, |inner, &size| Value::Array(vec![inner; size as usize])))
}
