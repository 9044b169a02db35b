//! Numbers of any dtype, one type at a time.

use half::{bf16, f16};

use servable_model::tensor::DType;

/// Calls `$with!(type)` with the Rust type of a dtype of real numbers; `$otherwise` for other dtypes.
macro_rules! with_number {
    ($dtype:expr, $with:ident, $otherwise:expr) => {
        match $dtype {
            DType::FLOAT => $with!(f32),
            DType::DOUBLE => $with!(f64),
            DType::HALF => $with!(half::f16),
            DType::BFLOAT16 => $with!(half::bf16),
            DType::INT8 => $with!(i8),
            DType::INT16 => $with!(i16),
            DType::INT32 => $with!(i32),
            DType::INT64 => $with!(i64),
            DType::UINT8 | DType::BOOL => $with!(u8),
            DType::UINT16 => $with!(u16),
            DType::UINT32 => $with!(u32),
            DType::UINT64 => $with!(u64),
            _ => $otherwise,
        }
    };
}
pub(crate) use with_number;

/// A number as it lies in a tensor.
pub(crate) trait Number: Copy {
    /// The bytes in a tensor.
    type Bytes: Copy;

    fn read(bytes: Self::Bytes) -> Self;

    fn to_f32(self) -> f32;
}

macro_rules! number {
    ($($type:ty, $size:literal, |$value:ident| $float:expr;)*) => {
        $(impl Number for $type {
            type Bytes = [u8; $size];

            fn read(bytes: Self::Bytes) -> Self {
                Self::from_le_bytes(bytes)
            }

            fn to_f32(self) -> f32 {
                let $value = self;
                $float
            }
        })*
    };
}

number! {
    f32, 4, |value| value;
    f64, 8, |value| value as f32;
    f16, 2, |value| value.to_f32();
    bf16, 2, |value| value.to_f32();
    i8, 1, |value| f32::from(value);
    i16, 2, |value| f32::from(value);
    i32, 4, |value| value as f32;
    i64, 8, |value| value as f32;
    u8, 1, |value| f32::from(value);
    u16, 2, |value| f32::from(value);
    u32, 4, |value| value as f32;
    u64, 8, |value| value as f32;
}

/// Whether a dtype is one of real numbers or booleans.
pub(crate) fn is_number(dtype: DType) -> bool {
    macro_rules! yes {
        ($number:ty) => {
            true
        };
    }
    with_number!(dtype, yes, false)
}
