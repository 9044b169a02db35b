//! The table of C functions, looked up once in the library of the installed wheel.
//!
//! Declarations follow `xgboost/c_api.h`. All functions but the first two return 0, or -1 and set the error of the
//! thread. Texts and arrays that they return belong to the library, and last until the next call on the same thread.

use std::ffi::{c_char, c_int, c_void};
use std::path::Path;

use servable_native::{Library, OpenError, functions};

/// `BoosterHandle` and `DMatrixHandle`.
pub(crate) type Handle = *mut c_void;

functions! {
    /// The functions. Each field is named after its symbol.
    struct Api {
        version = "XGBoostVersion" (*mut c_int, *mut c_int, *mut c_int);
        last_error = "XGBGetLastError" () -> *const c_char;

        create = "XGBoosterCreate" (*const Handle, u64, *mut Handle) -> c_int;
        free = "XGBoosterFree" (Handle) -> c_int;
        load_model = "XGBoosterLoadModel" (Handle, *const c_char) -> c_int;
        set_param = "XGBoosterSetParam" (Handle, *const c_char, *const c_char) -> c_int;
        save_json_config = "XGBoosterSaveJsonConfig" (Handle, *mut u64, *mut *const c_char) -> c_int;
        num_feature = "XGBoosterGetNumFeature" (Handle, *mut u64) -> c_int;
        feature_info = "XGBoosterGetStrFeatureInfo" (
            Handle, *const c_char, *mut u64, *mut *const *const c_char,
        ) -> c_int;
        attribute = "XGBoosterGetAttr" (Handle, *const c_char, *mut *const c_char, *mut c_int) -> c_int;

        predict_from_dense = "XGBoosterPredictFromDense" (
            Handle, *const c_char, *const c_char, Handle, *mut *const u64, *mut u64, *mut *const f32,
        ) -> c_int;
        predict_from_matrix = "XGBoosterPredictFromDMatrix" (
            Handle, Handle, *const c_char, *mut *const u64, *mut u64, *mut *const f32,
        ) -> c_int;
        matrix_from_dense = "XGDMatrixCreateFromDense" (*const c_char, *const c_char, *mut Handle) -> c_int;
        free_matrix = "XGDMatrixFree" (Handle) -> c_int;
    }
}

/// The functions for categories, which the library has since 3.1.
pub(crate) struct CategoryApi {
    pub(crate) export: unsafe extern "C" fn(Handle, *const c_char, *mut Handle, *mut *const c_char) -> c_int,
    pub(crate) free: unsafe extern "C" fn(Handle) -> c_int,
}

impl Api {
    /// Loads the library, and looks up the functions. The library is never unloaded.
    pub(crate) fn open(path: &Path) -> Result<(&'static Self, Option<CategoryApi>), OpenError> {
        // SAFETY: the initialisers of XGBoost's library may run in any process.
        let library = unsafe { Library::open(path)? };
        // SAFETY: this is XGBoost's library by its name. Its header declares these functions.
        let api = unsafe { Self::look_up(&library)? };
        // SAFETY: likewise; the names end in a NUL.
        let categories = unsafe {
            let export = library.function("XGBoosterGetCategoriesExportToArrow\0");
            let free = library.function("XGBCategoriesFree\0");
            export.ok().zip(free.ok()).map(|(export, free)| CategoryApi { export, free })
        };
        Ok((Box::leak(Box::new(api)), categories))
    }
}
