//! Columns to one matrix.

use servable_model::error::{Result, ServingError, expect_memory};
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, DType, Elements, Tensor, shape_text};

use crate::numbers::{Number, is_number, with_number};

/// How many rows are filled before the next ones: their part of the matrix stays in the cache while column after column
/// is written to it.
const ROWS_AT_A_TIME: usize = 256;

/// The columns, side by side, as a row-major matrix of `float`.
///
/// Each column is a name and a tensor of shape `[n]` or `[n, 1]`, with numbers or booleans of any dtype. All have the
/// same number of rows.
///
/// # Errors
///
/// `INVALID_ARGUMENT` if a column has another shape or no numbers, `RESOURCE_EXHAUSTED` if there is no memory for the
/// matrix.
pub fn dense<'a>(columns: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<Tensor> {
    let columns = columns.into_iter().map(column).collect::<Result<Vec<_>>>()?;
    let (rows, width) = (columns.first().map_or(0, |column| column.rows), columns.len());
    if let Some(other) = columns.iter().find(|column| column.rows != rows) {
        let Column { name, rows: found, .. } = other;
        let text = format!("input \"{name}\" has {found} rows, and input \"{}\" {rows}", columns[0].name);
        return Err(ServingError::invalid_argument(text));
    }
    let size = rows * width * size_of::<f32>();
    expect_memory(size)?;
    let mut matrix = AlignedBytes::new(ALIGNMENT);
    matrix.resize(size, 0);
    let (cells, _) = matrix.as_chunks_mut();
    for start in (0..rows).step_by(ROWS_AT_A_TIME) {
        let end = rows.min(start + ROWS_AT_A_TIME);
        let block = &mut cells[start * width..end * width];
        for (position, column) in columns.iter().enumerate() {
            column.fill(start..end, &mut block[position..], width);
        }
    }
    Ok(Tensor::from_numbers(DType::FLOAT, vec![rows as i64, width as i64], Buffer::Owned(matrix)))
}

struct Column<'a> {
    name: &'a str,
    dtype: DType,
    rows: usize,
    bytes: &'a [u8],
}

fn column<'a>((name, tensor): (&'a str, &'a Tensor)) -> Result<Column<'a>> {
    let dtype = tensor.dtype();
    match (tensor.shape(), tensor.elements()) {
        (&[rows] | &[rows, 1], Elements::Numbers(buffer)) if is_number(dtype) => {
            Ok(Column { name, dtype, rows: rows as usize, bytes: buffer.as_ref() })
        }
        (shape, _) => Err(ServingError::invalid_argument(format!(
            "input \"{name}\": got {dtype} of shape {}, want numbers of shape [n] or [n,1]",
            shape_text(shape)
        ))),
    }
}

impl Column<'_> {
    /// Writes rows to each cell that begins a stride.
    fn fill(&self, rows: std::ops::Range<usize>, cells: &mut [[u8; 4]], stride: usize) {
        macro_rules! fill {
            ($number:ty) => {{
                let values = &self.bytes.as_chunks().0[rows];
                for (cell, &value) in cells.iter_mut().step_by(stride).zip(values) {
                    *cell = <$number>::read(value).to_f32().to_le_bytes();
                }
            }};
        }
        with_number!(self.dtype, fill, unreachable!("a column has numbers"));
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    fn tensor(dtype: DType, shape: &[i64], bytes: &[u8]) -> Tensor {
        Tensor::from_numbers(dtype, shape.to_vec(), Buffer::Owned(AlignedBytes::from_slice(ALIGNMENT, bytes)))
    }

    fn floats(tensor: &Tensor) -> Vec<f32> {
        let Elements::Numbers(buffer) = tensor.elements() else { panic!("a matrix of numbers") };
        buffer.as_ref().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }

    #[test]
    fn columns_of_every_dtype_become_floats() {
        macro_rules! column {
            ($dtype:ident, $($value:expr),*) => {
                (DType::$dtype, [$($value.to_le_bytes().to_vec()),*].concat())
            };
        }
        let columns = [
            column!(FLOAT, 1.5_f32, f32::NAN),
            column!(DOUBLE, 0.1_f64, -1e300_f64),
            column!(HALF, f16::from_f32(0.5), f16::from_f32(-2.0)),
            column!(BFLOAT16, bf16::from_f32(0.25), bf16::from_f32(3.0)),
            column!(INT8, -1_i8, 127_i8),
            column!(INT16, -300_i16, 300_i16),
            column!(INT32, 16_777_217_i32, -7_i32),
            column!(INT64, 1_i64 << 40, -1_i64),
            column!(UINT8, 255_u8, 0_u8),
            column!(BOOL, 1_u8, 0_u8),
            column!(UINT16, 65_535_u16, 1_u16),
            column!(UINT32, u32::MAX, 2_u32),
            column!(UINT64, u64::MAX, 3_u64),
        ];
        let tensors: Vec<Tensor> = columns
            .iter()
            .enumerate()
            .map(|(position, (dtype, bytes))| tensor(*dtype, if position % 2 == 0 { &[2] } else { &[2, 1] }, bytes))
            .collect();
        let matrix = dense(tensors.iter().map(|tensor| ("x", tensor))).expect("numbers");
        assert_eq!(matrix.shape(), [2, 13]);
        let found = floats(&matrix);
        let first = [
            1.5,
            0.1,
            0.5,
            0.25,
            -1.0,
            -300.0,
            16_777_216.0,
            1_099_511_627_776.0,
            255.0,
            1.0,
            65_535.0,
            4_294_967_300.0,
            18_446_744_000_000_000_000.0,
        ];
        assert_eq!(found[..13], first);
        assert!(found[13].is_nan());
        assert_eq!(found[14..], [f32::NEG_INFINITY, -2.0, 3.0, 127.0, 300.0, -7.0, -1.0, 0.0, 0.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn long_columns_are_joined_row_by_row() {
        let rows = 3 * ROWS_AT_A_TIME + 5;
        let bytes = |column: usize| (0..rows).flat_map(move |row| ((row * 3 + column) as i64).to_le_bytes());
        let columns: Vec<Tensor> =
            (0..3).map(|column| tensor(DType::INT64, &[rows as i64], &bytes(column).collect::<Vec<_>>())).collect();
        let matrix = dense(columns.iter().map(|column| ("x", column))).expect("numbers");
        assert!(floats(&matrix).into_iter().eq((0..rows * 3).map(|value| value as f32)));
    }

    #[test]
    fn what_is_no_column_is_named() {
        let (two, three) = (tensor(DType::FLOAT, &[2], &[0; 8]), tensor(DType::FLOAT, &[3, 1], &[0; 12]));
        let wide = tensor(DType::FLOAT, &[1, 2], &[0; 8]);
        let strings = Tensor::from_strings(vec![1], ["a"].into_iter().collect());
        for (columns, expected) in [
            ([("a", &two), ("b", &three)], "input \"b\" has 3 rows, and input \"a\" 2"),
            ([("a", &two), ("b", &wide)], "input \"b\": got float of shape [1,2], want numbers of shape [n] or [n,1]"),
            (
                [("a", &strings), ("b", &two)],
                "input \"a\": got string of shape [1], want numbers of shape [n] or [n,1]",
            ),
        ] {
            let error = dense(columns).expect_err("no matrix");
            assert_eq!(error.to_string(), format!("INVALID_ARGUMENT: {expected}"));
        }
        assert_eq!(dense([]).expect("an empty matrix").shape(), [0, 0]);
    }
}
