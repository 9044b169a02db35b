//! The two kinds of numbers that libraries take, and conversions from every dtype of numbers.

use servable_model::tensor::{AlignedBytes, DType};

/// A number of a library: `f32` or `f64`.
pub trait Cell: Copy + Default + Send + Sync + 'static {
    /// Its dtype.
    const DTYPE: DType;
    /// The value for a missing one.
    const MISSING: Self;

    /// The nearest number.
    fn from_f64(value: f64) -> Self;
    /// The nearest number.
    fn from_f32(value: f32) -> Self;
    /// The nearest number.
    fn from_i64(value: i64) -> Self;
    /// The nearest number.
    fn from_u64(value: u64) -> Self;
    /// The same number.
    fn to_f64(self) -> f64;
    /// 1 less this number, computed in its precision.
    #[must_use]
    fn complement(self) -> Self;
    /// Appends the bytes of numbers.
    fn append(values: &[Self], bytes: &mut AlignedBytes);
}

macro_rules! cell {
    ($number:ty, $dtype:ident) => {
        impl Cell for $number {
            const DTYPE: DType = DType::$dtype;
            const MISSING: Self = <$number>::NAN;

            #[allow(clippy::cast_lossless, reason = "one macro for both")]
            fn from_f64(value: f64) -> Self {
                value as $number
            }

            #[allow(clippy::cast_lossless, reason = "one macro for both")]
            fn from_f32(value: f32) -> Self {
                value as $number
            }

            fn from_i64(value: i64) -> Self {
                value as $number
            }

            fn from_u64(value: u64) -> Self {
                value as $number
            }

            #[allow(clippy::cast_lossless, reason = "one macro for both")]
            fn to_f64(self) -> f64 {
                self as f64
            }

            fn complement(self) -> Self {
                1.0 - self
            }

            fn append(values: &[Self], bytes: &mut AlignedBytes) {
                bytes.reserve(size_of_val(values));
                for value in values {
                    bytes.extend_from_slice(&value.to_le_bytes());
                }
            }
        }
    };
}

cell!(f32, FLOAT);
cell!(f64, DOUBLE);

/// Whether elements of this dtype can be converted.
pub(crate) fn is_number(dtype: DType) -> bool {
    matches!(
        dtype,
        DType::FLOAT
            | DType::DOUBLE
            | DType::INT8
            | DType::INT16
            | DType::INT32
            | DType::INT64
            | DType::UINT8
            | DType::UINT16
            | DType::UINT32
            | DType::UINT64
            | DType::BOOL
    )
}

/// Passes each element of a tensor of numbers to `take`, converted.
///
/// # Panics
///
/// If the dtype is not one of [`is_number`].
pub(crate) fn for_each<C: Cell>(dtype: DType, bytes: &[u8], mut take: impl FnMut(usize, C)) {
    macro_rules! each {
        ($number:ty, $convert:expr) => {
            for (index, &bytes) in bytes.as_chunks().0.iter().enumerate() {
                let value = <$number>::from_le_bytes(bytes);
                take(index, $convert(value));
            }
        };
    }
    match dtype {
        DType::FLOAT => each!(f32, C::from_f32),
        DType::DOUBLE => each!(f64, C::from_f64),
        DType::INT8 => each!(i8, |value| C::from_i64(i64::from(value))),
        DType::INT16 => each!(i16, |value| C::from_i64(i64::from(value))),
        DType::INT32 => each!(i32, |value| C::from_i64(i64::from(value))),
        DType::INT64 => each!(i64, C::from_i64),
        DType::UINT8 | DType::BOOL => each!(u8, |value| C::from_u64(u64::from(value))),
        DType::UINT16 => each!(u16, |value| C::from_u64(u64::from(value))),
        DType::UINT32 => each!(u32, |value| C::from_u64(u64::from(value))),
        DType::UINT64 => each!(u64, C::from_u64),
        _ => unreachable!("the caller has checked that these are numbers"),
    }
}
