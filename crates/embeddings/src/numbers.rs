//! The number formats of tables. Rows are read as float32.

use half::{bf16, f16};

/// The format of a number; little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Float32,
    Float64,
    Float16,
    BFloat16,
    Int8,
}

impl Kind {
    /// The size in bytes.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::Float64 => 8,
            Self::Float32 => 4,
            Self::Float16 | Self::BFloat16 => 2,
            Self::Int8 => 1,
        }
    }

    /// Combines each number of a row with an element of `into`, in order. `scale` is a factor of int8.
    #[inline]
    pub(crate) fn fold_row(self, row: &[u8], scale: f32, into: &mut [f32], put: impl Fn(&mut f32, f32)) {
        match self {
            Self::Float32 => fold(row, into, f32::from_le_bytes, put),
            Self::Float64 => fold(row, into, |bytes| f64::from_le_bytes(bytes) as f32, put),
            Self::Float16 => fold(row, into, |bytes| f16::from_le_bytes(bytes).to_f32(), put),
            Self::BFloat16 => fold(row, into, |bytes| bf16::from_le_bytes(bytes).to_f32(), put),
            Self::Int8 => fold(row, into, |bytes| f32::from(i8::from_le_bytes(bytes)) * scale, put),
        }
    }
}

#[inline]
fn fold<const SIZE: usize>(
    row: &[u8],
    into: &mut [f32],
    read: impl Fn([u8; SIZE]) -> f32,
    put: impl Fn(&mut f32, f32),
) {
    for (into, bytes) in into.iter_mut().zip(row.as_chunks::<SIZE>().0) {
        put(into, read(*bytes));
    }
}
