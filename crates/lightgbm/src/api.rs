//! The table of C functions, looked up once in the library of the installed wheel.
//!
//! Declarations follow `LightGBM/c_api.h`. All functions but the first return 0, or -1 and set the error of the thread.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io::Write;
use std::path::Path;

use servable_native::{Library, OpenError, functions};

/// `BoosterHandle` and `FastConfigHandle`.
pub(crate) type Handle = *mut c_void;
type LogCallback = unsafe extern "C" fn(*const c_char);

/// `C_API_DTYPE_FLOAT32` and `C_API_DTYPE_FLOAT64`.
pub(crate) const FLOAT32: c_int = 0;
pub(crate) const FLOAT64: c_int = 1;
/// `C_API_PREDICT_NORMAL` and `C_API_PREDICT_CONTRIB`.
pub(crate) const NORMAL: c_int = 0;
pub(crate) const CONTRIBUTIONS: c_int = 3;

/// Predictions run on the calling thread: requests that run in parallel use the CPUs better. Only errors are logged,
/// since the callback of a thread that has not loaded a model writes to standard output.
pub(crate) const PARAMETERS: &CStr = c"num_threads=1 verbosity=-1";

functions! {
    /// The functions. Each field is named after its symbol.
    struct Api {
        last_error = "LGBM_GetLastError" () -> *const c_char;
        register_log_callback = "LGBM_RegisterLogCallback" (LogCallback) -> c_int;

        load_model = "LGBM_BoosterLoadModelFromString" (*const c_char, *mut c_int, *mut Handle) -> c_int;
        free = "LGBM_BoosterFree" (Handle) -> c_int;
        num_feature = "LGBM_BoosterGetNumFeature" (Handle, *mut c_int) -> c_int;
        num_trees = "LGBM_BoosterNumberOfTotalModel" (Handle, *mut c_int) -> c_int;
        num_predict = "LGBM_BoosterCalcNumPredict" (Handle, c_int, c_int, c_int, c_int, *mut i64) -> c_int;

        predict = "LGBM_BoosterPredictForMat" (
            Handle, *const c_void, c_int, i32, i32, c_int, c_int, c_int, c_int, *const c_char, *mut i64, *mut f64,
        ) -> c_int;
        fast_init = "LGBM_BoosterPredictForMatSingleRowFastInit" (
            Handle, c_int, c_int, c_int, c_int, i32, *const c_char, *mut Handle,
        ) -> c_int;
        predict_fast = "LGBM_BoosterPredictForMatSingleRowFast" (Handle, *const c_void, *mut i64, *mut f64) -> c_int;
        free_fast = "LGBM_FastConfigFree" (Handle) -> c_int;
    }
}

impl Api {
    /// Loads the library, and looks up the functions. The library is never unloaded.
    pub(crate) fn open(path: &Path) -> Result<&'static Self, OpenError> {
        // SAFETY: the initialisers of LightGBM's library may run in any process.
        let library = unsafe { Library::open(path)? };
        // SAFETY: this is LightGBM's library by its name. Its header declares these functions.
        let api = unsafe { Self::look_up(&library)? };
        // SAFETY: likewise; the name ends in a NUL. The library has the function since 4.3.
        let set_max_threads =
            unsafe { library.function::<unsafe extern "C" fn(c_int) -> c_int>("LGBM_SetMaxThreads\0") };
        if let Ok(set_max_threads) = set_max_threads {
            // SAFETY: takes a number.
            unsafe { set_max_threads(1) };
        }
        Ok(Box::leak(Box::new(api)))
    }

    /// Redirects the messages of the calling thread from standard output to standard error.
    pub(crate) fn redirect_log(&self) {
        // SAFETY: the callback may be called from any thread at any time.
        unsafe { (self.register_log_callback)(log) };
    }
}

/// Writes a message, or a part of one, to standard error.
///
/// # Safety
///
/// The text must end in a NUL.
unsafe extern "C" fn log(text: *const c_char) {
    // SAFETY: guaranteed by the caller.
    let text = unsafe { CStr::from_ptr(text) };
    // Without a standard error there is nowhere to report that.
    let _ = std::io::stderr().write_all(text.to_bytes());
}
