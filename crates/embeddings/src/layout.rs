//! Where the rows of a table are in a file.

use servable_model::error::Result;

use crate::numbers::Kind;
use crate::place::Place;

/// A matrix in a file, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) kind: Kind,
    pub(crate) rows: usize,
    pub(crate) width: usize,
    /// The first byte of the rows.
    pub(crate) start: usize,
    pub(crate) scales: Option<Scales>,
}

/// Factors of rows of int8, as float32.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scales {
    /// One for the table, at this byte.
    One(usize),
    /// One for each row, from this byte on.
    Rows(usize),
}

impl Layout {
    /// The size of a row in bytes.
    pub(crate) fn row_size(&self) -> usize {
        self.width * self.kind.size()
    }

    /// The first byte behind rows and scales.
    ///
    /// # Errors
    ///
    /// `DATA_LOSS` if there are no numbers, or more bytes than memory has addresses.
    pub(crate) fn end(&self, place: Place<'_>) -> Result<usize> {
        let (rows, width) = (self.rows, self.width);
        if rows == 0 || width == 0 {
            return Err(place.wrong(format!("got shape [{rows}, {width}], want at least one row and one column")));
        }
        let size = width.checked_mul(self.kind.size()).and_then(|row| row.checked_mul(rows));
        let end = size.and_then(|size| size.checked_add(self.start)).filter(|&end| isize::try_from(end).is_ok());
        let end = end.ok_or_else(|| place.wrong(format!("got shape [{rows}, {width}], which no memory can hold")))?;
        Ok(match self.scales {
            None => end,
            Some(Scales::One(start)) => end.max(start + size_of::<f32>()),
            Some(Scales::Rows(start)) => end.max(start + rows * size_of::<f32>()),
        })
    }
}
