//! `LGBM_BoosterPredictForMat`, and its variant for single rows.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

use servable_native::{Library, functions};

use super::{Calls, Result, batch, expect_success};

type Handle = *mut c_void;

/// `C_API_DTYPE_FLOAT32` and `C_API_PREDICT_NORMAL`.
const FLOAT32: c_int = 0;
const NORMAL: c_int = 0;

functions! {
    /// The functions of `LightGBM/c_api.h`.
    struct Api {
        create = "LGBM_BoosterCreateFromModelfile" (*const c_char, *mut c_int, *mut Handle) -> c_int;
        free = "LGBM_BoosterFree" (Handle) -> c_int;
        count = "LGBM_BoosterCalcNumPredict" (Handle, c_int, c_int, c_int, c_int, *mut i64) -> c_int;
        predict = "LGBM_BoosterPredictForMat" (
            Handle, *const c_void, c_int, i32, i32, c_int, c_int, c_int, c_int, *const c_char, *mut i64, *mut f64,
        ) -> c_int;
        prepare_row = "LGBM_BoosterPredictForMatSingleRowFastInit" (
            Handle, c_int, c_int, c_int, c_int, i32, *const c_char, *mut Handle,
        ) -> c_int;
        predict_row = "LGBM_BoosterPredictForMatSingleRowFast" (Handle, *const c_void, *mut i64, *mut f64) -> c_int;
        free_prepared = "LGBM_FastConfigFree" (Handle) -> c_int;
    }
}

pub(super) struct Model {
    api: Api,
    path: CString,
    parameters: CString,
    row: Vec<f32>,
}

impl Model {
    pub(super) fn load(library: &Path, model: &CStr, row: &[f32], threads: usize) -> Result<Self> {
        let parameters = CString::new(format!("num_threads={threads} verbosity=-1"))?;
        // SAFETY: the library declares these functions.
        let api = unsafe { Api::look_up(&Library::open(library)?)? };
        Ok(Self { api, path: model.to_owned(), parameters, row: row.to_vec() })
    }
}

impl super::Model for Model {
    /// Each thread gets a booster, because predictions with the same one exclude each other.
    fn calls(&self, rows: usize) -> Result<Box<dyn Calls + '_>> {
        let (mut rounds, mut count) = (0, 0);
        let mut calls = Batch {
            model: self,
            booster: ptr::null_mut(),
            prepared: ptr::null_mut(),
            rows,
            values: batch(&self.row, rows),
            results: Vec::new(),
        };
        // SAFETY: the texts end in a NUL, and the handles become ours.
        unsafe {
            let status = (self.api.create)(self.path.as_ptr(), &raw mut rounds, &raw mut calls.booster);
            expect_success("LGBM_BoosterCreateFromModelfile", status)?;
            let status = (self.api.count)(calls.booster, rows as c_int, NORMAL, 0, -1, &raw mut count);
            expect_success("LGBM_BoosterCalcNumPredict", status)?;
            if rows == 1 {
                let status = (self.api.prepare_row)(
                    calls.booster,
                    NORMAL,
                    0,
                    -1,
                    FLOAT32,
                    self.row.len() as i32,
                    self.parameters.as_ptr(),
                    &raw mut calls.prepared,
                );
                expect_success("LGBM_BoosterPredictForMatSingleRowFastInit", status)?;
            }
        }
        calls.results = vec![0.0; count as usize];
        Ok(Box::new(calls))
    }
}

struct Batch<'a> {
    model: &'a Model,
    booster: Handle,
    /// For single rows.
    prepared: Handle,
    rows: usize,
    values: Vec<f32>,
    results: Vec<f64>,
}

impl Calls for Batch<'_> {
    fn run(&mut self) -> Result<()> {
        let (api, data, mut len) = (&self.model.api, self.values.as_ptr().cast(), 0);
        // SAFETY: the memory has the described shapes, and the handles are alive.
        let status = unsafe {
            if self.prepared.is_null() {
                (api.predict)(
                    self.booster,
                    data,
                    FLOAT32,
                    self.rows as i32,
                    self.model.row.len() as i32,
                    1,
                    NORMAL,
                    0,
                    -1,
                    self.model.parameters.as_ptr(),
                    &raw mut len,
                    self.results.as_mut_ptr(),
                )
            } else {
                (api.predict_row)(self.prepared, data, &raw mut len, self.results.as_mut_ptr())
            }
        };
        expect_success("LGBM_BoosterPredictForMat", status)
    }

    fn answer(&self, numbers: usize) -> Vec<f64> {
        self.results[..numbers.min(self.results.len())].to_vec()
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        // SAFETY: both are ours, and not used after.
        unsafe {
            if !self.prepared.is_null() {
                (self.model.api.free_prepared)(self.prepared);
            }
            if !self.booster.is_null() {
                (self.model.api.free)(self.booster);
            }
        }
    }
}
