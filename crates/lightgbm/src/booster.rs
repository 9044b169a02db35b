//! An owned booster.

use std::ffi::{CStr, c_int};
use std::ptr;

use servable_model::error::{Result, ServingError};
use servable_model::tensor::DType;
use servable_trees::{Kind, Rows};

use crate::api::{Api, CONTRIBUTIONS, FLOAT32, FLOAT64, Handle, NORMAL, PARAMETERS};

/// An owned `BoosterHandle`.
///
/// Predictions of one booster are thread-safe, but take a shared lock each, on which several threads lose up to half of
/// their throughput when predictions take microseconds (`LightGBM` issue 7336).
pub(crate) struct RawBooster {
    api: &'static Api,
    handle: Handle,
}

// SAFETY: a booster may be used from any thread.
unsafe impl Send for RawBooster {}
// SAFETY: predictions of several threads are thread-safe, and nothing else is called once it is shared.
unsafe impl Sync for RawBooster {}

impl RawBooster {
    /// Reads the text of a model with this number of trees.
    pub(crate) fn load(api: &'static Api, text: &CStr, trees: usize) -> Result<Self> {
        let (mut iterations, mut handle) = (0, ptr::null_mut());
        // SAFETY: the text ends in a NUL; the results are written, and the handle becomes ours.
        check(api, unsafe { (api.load_model)(text.as_ptr(), &raw mut iterations, &raw mut handle) })?;
        let booster = Self { api, handle };
        let mut found = 0;
        // SAFETY: the result is written.
        check(api, unsafe { (api.num_trees)(handle, &raw mut found) })?;
        if usize::try_from(found) != Ok(trees) {
            // The library ignores what follows the first line that it does not know.
            return Err(ServingError::internal(format!("the library read {found} trees, want {trees}")));
        }
        Ok(booster)
    }

    pub(crate) fn num_feature(&self) -> Result<usize> {
        let mut count = 0;
        // SAFETY: the result is written.
        check(self.api, unsafe { (self.api.num_feature)(self.handle, &raw mut count) })?;
        usize::try_from(count).map_err(|_| ServingError::internal(format!("got {count} features")))
    }

    /// The number of results of a row.
    pub(crate) fn width(&self, kind: Kind) -> Result<usize> {
        let mut count = 0;
        // SAFETY: the result is written.
        check(self.api, unsafe { (self.api.num_predict)(self.handle, 1, number_of(kind), 0, -1, &raw mut count) })?;
        usize::try_from(count).map_err(|_| ServingError::internal(format!("got {count} results a row")))
    }

    /// Predicts rows. `results` must have room for exactly their results.
    pub(crate) fn predict(&self, rows: Rows<'_>, kind: Kind, results: &mut [f64]) -> Result<()> {
        let mut count = 0;
        let (len, columns) = (rows.len() as i32, rows.columns() as i32);
        let (is_row_major, first, all) = (1, 0, -1);
        // SAFETY: the matrix has that many rows and columns of its dtype, the text ends in a NUL, and the results have
        // room, as the caller guarantees.
        check(self.api, unsafe {
            (self.api.predict)(
                self.handle,
                rows.bytes().as_ptr().cast(),
                data_type(rows.dtype()),
                len,
                columns,
                is_row_major,
                number_of(kind),
                first,
                all,
                PARAMETERS.as_ptr(),
                &raw mut count,
                results.as_mut_ptr(),
            )
        })?;
        expect_count(count, results.len())
    }
}

impl Drop for RawBooster {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after.
        unsafe { (self.api.free)(self.handle) };
    }
}

/// A prepared prediction of single rows of a dtype; for one thread at a time.
pub(crate) struct FastConfig {
    api: &'static Api,
    handle: Handle,
    dtype: DType,
}

// SAFETY: it may be used from any thread, by one at a time.
unsafe impl Send for FastConfig {}

impl FastConfig {
    /// Prepares the predictions of a booster.
    ///
    /// # Safety
    ///
    /// It must be dropped before the booster.
    pub(crate) unsafe fn new(booster: &RawBooster, dtype: DType, columns: usize) -> Result<Self> {
        let (api, mut handle) = (booster.api, ptr::null_mut());
        let (first, all) = (0, -1);
        // SAFETY: the text ends in a NUL, and the handle becomes ours.
        check(api, unsafe {
            (api.fast_init)(
                booster.handle,
                NORMAL,
                first,
                all,
                data_type(dtype),
                columns as i32,
                PARAMETERS.as_ptr(),
                &raw mut handle,
            )
        })?;
        Ok(Self { api, handle, dtype })
    }

    /// Predicts one row of the dtype. `results` must have room for exactly its results.
    pub(crate) fn predict(&mut self, row: Rows<'_>, results: &mut [f64]) -> Result<()> {
        debug_assert_eq!((row.len(), row.dtype()), (1, self.dtype));
        let mut count = 0;
        // SAFETY: the row has the number of columns of the configuration, and the results have room, as the caller
        // guarantees. The exclusive reference keeps other threads away.
        check(self.api, unsafe {
            (self.api.predict_fast)(self.handle, row.bytes().as_ptr().cast(), &raw mut count, results.as_mut_ptr())
        })?;
        expect_count(count, results.len())
    }
}

impl Drop for FastConfig {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after.
        unsafe { (self.api.free_fast)(self.handle) };
    }
}

fn number_of(kind: Kind) -> c_int {
    match kind {
        Kind::Predictions => NORMAL,
        Kind::Contributions => CONTRIBUTIONS,
    }
}

fn data_type(dtype: DType) -> c_int {
    if dtype == DType::DOUBLE { FLOAT64 } else { FLOAT32 }
}

fn expect_count(found: i64, wanted: usize) -> Result<()> {
    if found == wanted as i64 {
        return Ok(());
    }
    Err(ServingError::internal(format!("the model returned {found} results, want {wanted}")))
}

fn check(api: &Api, code: c_int) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: the text ends in a NUL, and lasts until the next call on this thread.
    let text = unsafe { CStr::from_ptr((api.last_error)()) };
    Err(ServingError::internal(text.to_bytes()))
}
