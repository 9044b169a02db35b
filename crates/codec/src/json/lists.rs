//! The values of one input in [`super::fast`]: nested lists, whose lengths are the shape of the tensor.

use super::column::Column;
use super::leaves::{self, Extent, Leaves};
use super::reader::Reader;
use servable_model::tensor::DType;

/// Deeper nesting is left to the exact decoder, because this one recurses.
const GREATEST_RANK: usize = 32;

/// The shape of one input, as far as known.
#[derive(Default)]
pub(super) struct Dimensions {
    /// The length of the lists of each level; [`Self::OPEN`] until the first list of the level ends.
    pub(super) sizes: Vec<i64>,
    /// The rank, known after the first leaf or empty list.
    rank: Option<usize>,
}

impl Dimensions {
    const OPEN: i64 = -1;

    /// Sets the rank, or checks it.
    fn settle_rank(&mut self, rank: usize) -> Option<()> {
        (*self.rank.get_or_insert(rank) == rank).then_some(())
    }

    /// Sets the length of the lists of a level, or checks it.
    fn settle_size(&mut self, level: usize, size: i64) -> Option<()> {
        let known = self.sizes.get_mut(level)?;
        if *known == Self::OPEN {
            *known = size;
        }
        (*known == size).then_some(())
    }
}

/// Reads one value, a leaf or nested lists of leaves, and appends its leaves to the column.
pub(super) fn read_value(reader: &mut Reader<'_>, dimensions: &mut Dimensions, column: &mut Column) -> Option<()> {
    let (dtype, is_correctly_rounded) = (column.dtype(), column.is_correctly_rounded());
    let numbers = &mut column.numbers;
    // The decoder of leaves is chosen once, not for each innermost list: those of an image are short.
    match dtype {
        DType::FLOAT if is_correctly_rounded => {
            value(reader, dimensions, &mut leaves::numbers(numbers, leaves::correct_single))
        }
        DType::FLOAT => value(reader, dimensions, &mut leaves::numbers(numbers, leaves::single)),
        DType::DOUBLE if is_correctly_rounded => {
            value(reader, dimensions, &mut leaves::numbers(numbers, leaves::correct_double))
        }
        DType::DOUBLE => value(reader, dimensions, &mut leaves::numbers(numbers, leaves::double)),
        DType::INT8 => value(reader, dimensions, &mut leaves::numbers(numbers, leaves::integer(i8::to_le_bytes))),
        DType::INT16 => value(reader, dimensions, &mut leaves::numbers(numbers, leaves::integer(i16::to_le_bytes))),
        DType::INT32 => value(reader, dimensions, &mut leaves::numbers(numbers, leaves::integer(i32::to_le_bytes))),
        DType::INT64 => value(reader, dimensions, &mut leaves::numbers(numbers, leaves::integer(i64::to_le_bytes))),
        DType::UINT8 => value(reader, dimensions, &mut leaves::numbers(numbers, leaves::integer(u8::to_le_bytes))),
        DType::UINT32 => value(reader, dimensions, &mut leaves::numbers(numbers, leaves::integer(u32::to_le_bytes))),
        DType::UINT64 => value(reader, dimensions, &mut leaves::numbers(numbers, leaves::integer(u64::to_le_bytes))),
        DType::BOOL => value(reader, dimensions, &mut leaves::numbers(numbers, leaves::boolean)),
        DType::STRING => value(reader, dimensions, &mut leaves::strings(&mut column.strings)),
        _ => None,
    }
}

fn value(reader: &mut Reader<'_>, dimensions: &mut Dimensions, leaves: &mut impl Leaves) -> Option<()> {
    if reader.peek() == b'[' {
        return list(reader, dimensions, 0, leaves);
    }
    dimensions.settle_rank(0)?;
    leaves(reader, Extent::One).map(|_| ())
}

/// Reads a list of this level. Its opening bracket is next.
fn list(reader: &mut Reader<'_>, dimensions: &mut Dimensions, level: usize, leaves: &mut impl Leaves) -> Option<()> {
    if level == GREATEST_RANK || dimensions.rank.is_some_and(|rank| rank <= level) {
        return None;
    }
    reader.at += 1;
    if dimensions.sizes.len() == level {
        dimensions.sizes.push(Dimensions::OPEN);
    }
    let mut size = 0;
    match reader.peek() {
        b']' => {
            reader.at += 1;
            dimensions.settle_rank(level + 1)?;
        }
        b'[' => loop {
            if reader.peek() != b'[' {
                return None;
            }
            list(reader, dimensions, level + 1, leaves)?;
            size += 1;
            if !reader.another(b']')? {
                break;
            }
        },
        _ => {
            dimensions.settle_rank(level + 1)?;
            size = leaves(reader, Extent::RestOfList)?;
        }
    }
    dimensions.settle_size(level, size)
}
