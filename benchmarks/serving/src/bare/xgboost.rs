//! `XGBoosterPredictFromDense`, with texts that are made once.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

use servable_native::{Library, functions};

use super::{Calls, Model as _, Result, batch, expect_success};

type Handle = *mut c_void;

functions! {
    /// The functions of `xgboost/c_api.h`.
    struct Api {
        create = "XGBoosterCreate" (*const Handle, u64, *mut Handle) -> c_int;
        load_model = "XGBoosterLoadModel" (Handle, *const c_char) -> c_int;
        set_param = "XGBoosterSetParam" (Handle, *const c_char, *const c_char) -> c_int;
        predict = "XGBoosterPredictFromDense" (
            Handle, *const c_char, *const c_char, Handle, *mut *const u64, *mut u64, *mut *const f32,
        ) -> c_int;
    }
}

pub(super) struct Model {
    api: Api,
    booster: Handle,
    row: Vec<f32>,
}

// SAFETY: predictions may run concurrently; nothing else is called after the load.
unsafe impl Sync for Model {}

impl Model {
    pub(super) fn load(library: &Path, model: &CStr, row: &[f32], threads: usize) -> Result<Self> {
        let (mut booster, threads) = (ptr::null_mut(), CString::new(threads.to_string())?);
        // SAFETY: the library declares these functions, texts end in a NUL, and the booster is never freed.
        unsafe {
            let api = Api::look_up(&Library::open(library)?)?;
            expect_success("XGBoosterCreate", (api.create)(ptr::null(), 0, &raw mut booster))?;
            expect_success("XGBoosterLoadModel", (api.load_model)(booster, model.as_ptr()))?;
            expect_success("XGBoosterSetParam", (api.set_param)(booster, c"nthread".as_ptr(), threads.as_ptr()))?;
            let model = Self { api, booster, row: row.to_vec() };
            // The first prediction configures the booster, which is not thread-safe.
            model.calls(1)?.run()?;
            Ok(model)
        }
    }
}

impl super::Model for Model {
    fn calls(&self, rows: usize) -> Result<Box<dyn Calls + '_>> {
        let values = batch(&self.row, rows);
        let (address, columns) = (values.as_ptr().addr(), self.row.len());
        let text = format!(r#"{{"data":[{address},true],"shape":[{rows},{columns}],"typestr":"<f4","version":3}}"#);
        Ok(Box::new(Batch { model: self, array: CString::new(text)?, _values: values, results: &[] }))
    }
}

struct Batch<'a> {
    model: &'a Model,
    array: CString,
    _values: Vec<f32>,
    /// Memory of the library, valid until the next call on this thread.
    results: &'a [f32],
}

impl Calls for Batch<'_> {
    fn run(&mut self) -> Result<()> {
        let config = c"{\"type\":0,\"training\":false,\"iteration_begin\":0,\"iteration_end\":0,\"strict_shape\":false,\"missing\":NaN,\"cache_id\":0}";
        let (mut shape, mut rank, mut results) = (ptr::null(), 0, ptr::null());
        // SAFETY: the texts end in a NUL, and describe live memory. The results have the size that the shape says.
        unsafe {
            let status = (self.model.api.predict)(
                self.model.booster,
                self.array.as_ptr(),
                config.as_ptr(),
                ptr::null_mut(),
                &raw mut shape,
                &raw mut rank,
                &raw mut results,
            );
            expect_success("XGBoosterPredictFromDense", status)?;
            let size: u64 = std::slice::from_raw_parts(shape, rank as usize).iter().product();
            self.results = std::slice::from_raw_parts(results, size as usize);
        }
        Ok(())
    }

    fn answer(&self, numbers: usize) -> Vec<f64> {
        self.results.iter().take(numbers).map(|&number| number.into()).collect()
    }
}
