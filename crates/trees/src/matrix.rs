//! The inputs of a run as the rows of one dense matrix.

use std::collections::HashMap;
use std::ops::Range;

use servable_model::error::{Result, ServingError, expect_memory};
use servable_model::signature::Signature;
use servable_model::tensor::{ALIGNMENT, AlignedBytes, DType, Elements, Tensor, shape_text};

use crate::numbers::{Cell, for_each, is_number};

/// The beginning of the inner name of the input of a feature; its index follows.
pub(crate) const COLUMN: &str = "column/";

/// How many rows of columns are gathered before the next ones: their part of the matrix stays in the cache.
const ROWS_AT_A_TIME: usize = 256;

/// The maximum number of features. More are a damaged file: a dense row would take megabytes.
pub const MAX_FEATURES: usize = 1 << 20;

/// One feature of a model.
#[derive(Clone, Debug, Default)]
pub struct Feature {
    /// The name; empty if the model carries none.
    pub name: String,
    /// The categories that clients send in place of codes; `None` for numbers, and for categories that the model knows
    /// by code only.
    pub categories: Option<Categories>,
}

/// The categories of a feature, with their codes.
#[derive(Clone, Debug)]
pub enum Categories {
    /// Strings. An empty string is a missing value, unless it is a category.
    Strings(HashMap<Box<[u8]>, u32>),
    /// Numbers, by the bits of the `f64`.
    Numbers(HashMap<u64, u32>),
}

impl Categories {
    /// Categories that are strings, in the order of their codes.
    pub fn of_strings(strings: impl IntoIterator<Item = impl Into<Box<[u8]>>>) -> Self {
        Self::Strings(strings.into_iter().zip(0..).map(|(string, code)| (string.into(), code)).collect())
    }

    /// Categories that are numbers, in the order of their codes.
    pub fn of_numbers(numbers: impl IntoIterator<Item = f64>) -> Self {
        Self::Numbers(numbers.into_iter().zip(0..).map(|(number, code)| (key(number), code)).collect())
    }
}

/// The key of a number; -0.0 is 0.0.
fn key(number: f64) -> u64 {
    (number + 0.0).to_bits()
}

/// What happens to a category that the model has not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownCategory {
    /// The request fails.
    Refused,
    /// It is a missing value.
    Missing,
}

/// Rows of a dense, row-major matrix of `f32` or `f64`, aligned to the size of a number.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    bytes: &'a [u8],
    dtype: DType,
    len: usize,
    columns: usize,
}

impl<'a> Rows<'a> {
    /// Rows over memory; `None` if the memory has another size, or is not aligned.
    pub fn new(dtype: DType, len: usize, columns: usize, bytes: &'a [u8]) -> Option<Self> {
        let size = dtype.size().filter(|_| matches!(dtype, DType::FLOAT | DType::DOUBLE))?;
        let is_aligned = bytes.as_ptr().addr().is_multiple_of(size);
        (is_aligned && len.checked_mul(columns)?.checked_mul(size)? == bytes.len()).then_some(Self {
            bytes,
            dtype,
            len,
            columns,
        })
    }

    /// The memory.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// `DType::FLOAT` or `DType::DOUBLE`.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Some of the rows.
    ///
    /// # Panics
    ///
    /// If the range is out of bounds.
    #[must_use]
    pub fn range(&self, range: Range<usize>) -> Self {
        let row = self.columns * self.dtype.size().expect("a dtype of numbers");
        Self { bytes: &self.bytes[range.start * row..range.end * row], len: range.len(), ..*self }
    }
}

/// Inputs whose dtypes and shapes have been checked.
pub(crate) enum Arranged<'a> {
    Matrix(&'a Tensor),
    /// In the order of the features.
    Columns(Vec<&'a Tensor>),
}

/// A matrix, whose memory may be that of an input.
pub(crate) enum Matrix<'a> {
    Borrowed(Rows<'a>),
    Gathered(DType, usize, usize, AlignedBytes),
}

impl Matrix<'_> {
    pub(crate) fn rows(&self) -> Rows<'_> {
        match self {
            Self::Borrowed(rows) => *rows,
            Self::Gathered(dtype, len, columns, bytes) => {
                Rows::new(*dtype, *len, *columns, bytes).expect("gathered memory is aligned and complete")
            }
        }
    }
}

/// The index of the feature of an input; `None` for the matrix.
fn column_index(tensor_name: &str) -> Option<usize> {
    tensor_name.strip_prefix(COLUMN)?.parse().ok()
}

/// Checks the dtypes and the shapes of the inputs of a run.
///
/// # Errors
///
/// `INVALID_ARGUMENT` with what was found and wanted.
pub(crate) fn arrange<'a>(features: &[Feature], signature: &Signature, inputs: &'a [Tensor]) -> Result<Arranged<'a>> {
    if let ([spec], [tensor]) = (&signature.inputs[..], inputs)
        && column_index(&spec.tensor_name).is_none()
    {
        let width = features.len() as i64;
        return match tensor.shape() {
            &[_, found] if found == width && is_number(tensor.dtype()) => Ok(Arranged::Matrix(tensor)),
            _ => Err(mismatch(&spec.alias, tensor, &format!("numbers of shape [n,{width}]"))),
        };
    }
    let mut columns: Vec<Option<&Tensor>> = vec![None; features.len()];
    let mut first: Option<(&str, i64)> = None;
    for (spec, tensor) in signature.inputs.iter().zip(inputs) {
        let index = column_index(&spec.tensor_name).filter(|&index| index < features.len());
        let index = index.ok_or_else(|| ServingError::internal(format!("input \"{}\" is no feature", spec.alias)))?;
        let wants_strings = matches!(features[index].categories, Some(Categories::Strings(_)));
        let fits = if wants_strings { tensor.dtype() == DType::STRING } else { is_number(tensor.dtype()) };
        let rows = match *tensor.shape() {
            [rows] | [rows, 1] if fits => rows,
            _ => {
                let wanted = if wants_strings { "strings" } else { "numbers" };
                return Err(mismatch(&spec.alias, tensor, &format!("{wanted} of shape [n] or [n,1]")));
            }
        };
        match first {
            Some((name, wanted)) if wanted != rows => {
                let text = format!("input \"{}\" has {rows} rows, and input \"{name}\" {wanted}", spec.alias);
                return Err(ServingError::invalid_argument(text));
            }
            Some(_) => {}
            None => first = Some((&spec.alias, rows)),
        }
        columns[index] = Some(tensor);
    }
    let columns: Option<Vec<_>> = columns.into_iter().collect();
    columns.map(Arranged::Columns).ok_or_else(|| ServingError::internal("a feature has no input"))
}

fn mismatch(alias: &str, tensor: &Tensor, wanted: &str) -> ServingError {
    let (dtype, shape) = (tensor.dtype(), shape_text(tensor.shape()));
    ServingError::invalid_argument(format!("input \"{alias}\": got {dtype} of shape {shape}, want {wanted}"))
}

impl Arranged<'_> {
    /// The matrix. The memory of an input is used in place, if it has a dtype that libraries take.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` for a category that is unknown, `RESOURCE_EXHAUSTED` if there is no memory for the matrix.
    pub(crate) fn matrix<C: Cell>(&self, features: &[Feature], unknown: UnknownCategory) -> Result<Matrix<'_>> {
        match self {
            Self::Matrix(tensor) => {
                let Elements::Numbers(buffer) = tensor.elements() else { unreachable!("numbers were checked") };
                let rows = tensor.shape()[0] as usize;
                if let Some(rows) = Rows::new(tensor.dtype(), rows, features.len(), buffer.as_ref()) {
                    return Ok(Matrix::Borrowed(rows));
                }
                let mut cells = filled::<C>(tensor.len())?;
                for_each(tensor.dtype(), buffer.as_ref(), |index, value| cells[index] = value);
                Ok(gathered(&cells, rows, features.len()))
            }
            Self::Columns(columns) => {
                let rows = columns.first().map_or(0, |column| column.shape()[0] as usize);
                let width = columns.len();
                let mut cells = filled::<C>(rows * width)?;
                for start in (0..rows).step_by(ROWS_AT_A_TIME) {
                    let range = start..rows.min(start + ROWS_AT_A_TIME);
                    let block = &mut cells[range.start * width..range.end * width];
                    for (index, (feature, column)) in features.iter().zip(columns).enumerate() {
                        let put = |row: usize, value: C| block[row * width + index] = value;
                        feature.fill(column, range.clone(), unknown, put)?;
                    }
                }
                Ok(gathered(&cells, rows, width))
            }
        }
    }
}

fn filled<C: Cell>(len: usize) -> Result<Vec<C>> {
    // The cells, and their bytes.
    expect_memory(len * size_of::<C>() * 2)?;
    Ok(vec![C::default(); len])
}

fn gathered<C: Cell>(cells: &[C], rows: usize, columns: usize) -> Matrix<'static> {
    let mut bytes = AlignedBytes::new(ALIGNMENT);
    C::append(cells, &mut bytes);
    Matrix::Gathered(C::DTYPE, rows, columns, bytes)
}

impl Feature {
    /// Passes some rows of a column to `put`, as numbers and codes.
    fn fill<C: Cell>(
        &self,
        column: &Tensor,
        rows: Range<usize>,
        unknown: UnknownCategory,
        mut put: impl FnMut(usize, C),
    ) -> Result<()> {
        let code = |code: Option<&u32>, shown: &dyn Fn() -> String| match code {
            Some(&code) => Ok(C::from_u64(u64::from(code))),
            None if unknown == UnknownCategory::Missing => Ok(C::MISSING),
            None => {
                let text = format!("input \"{}\": the model has no category {}", self.name, shown());
                Err(ServingError::invalid_argument(text))
            }
        };
        match (&self.categories, column.elements()) {
            (Some(Categories::Strings(codes)), Elements::Strings(strings)) => {
                for (row, index) in rows.enumerate() {
                    let string = strings.get(index);
                    let found = codes.get(string);
                    let is_missing = string.is_empty() && found.is_none();
                    let shown = || format!("\"{}\"", String::from_utf8_lossy(&string[..string.len().min(100)]));
                    put(row, if is_missing { C::MISSING } else { code(found, &shown)? });
                }
            }
            (categories, Elements::Numbers(buffer)) => {
                let size = column.dtype().size().expect("numbers were checked");
                let bytes = &buffer.as_ref()[rows.start * size..rows.end * size];
                let Some(Categories::Numbers(codes)) = categories else {
                    for_each(column.dtype(), bytes, put);
                    return Ok(());
                };
                let mut failure = None;
                for_each(column.dtype(), bytes, |row, value: f64| {
                    let shown = || value.to_string();
                    match if value.is_nan() { Ok(C::MISSING) } else { code(codes.get(&key(value)), &shown) } {
                        Ok(value) => put(row, value),
                        Err(error) => failure = failure.take().or(Some(error)),
                    }
                });
                return failure.map_or(Ok(()), Err);
            }
            (_, Elements::Strings(_)) => unreachable!("dtypes were checked"),
        }
        Ok(())
    }
}
