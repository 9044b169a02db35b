//! The table of C functions, found through the one exported function of the library.
//!
//! `OrtGetApiBase` leads to a versioned table of function pointers, to which versions only append. An entry is named by
//! its position in `struct OrtApi` of the header `onnxruntime_c_api.h`. The wheel has no header, so tests call each
//! entry that is declared here.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;

use servable_native::{Library, OpenError, functions, opaque};

/// The version of the table that has all entries below; ONNX Runtime 1.15 was the first with it.
const VERSION: u32 = 15;

opaque! {
    /// `OrtAllocator`.
    RawAllocator
    /// `OrtCUDAProviderOptionsV2`.
    RawCudaOptions
    /// `OrtEnv`.
    RawEnv
    /// `OrtMapTypeInfo`; owned by a type.
    RawMapInfo
    /// `OrtMemoryInfo`.
    RawMemoryInfo
    /// `OrtRunOptions`.
    RawRunOptions
    /// `OrtSequenceTypeInfo`; owned by a type.
    RawSequenceInfo
    /// `OrtSession`.
    RawSession
    /// `OrtSessionOptions`.
    RawSessionOptions
    /// `OrtStatus`; null for success.
    RawStatus
    /// `OrtTensorTypeAndShapeInfo`.
    RawTensorInfo
    /// `OrtThreadingOptions`.
    RawThreadingOptions
    /// `OrtTypeInfo`.
    RawTypeInfo
    /// `OrtValue`: a tensor, sequence or map.
    RawValue
}

/// `OrtApiBase`.
#[repr(C)]
struct Base {
    get_api: unsafe extern "C" fn(u32) -> *const Entry,
    version: unsafe extern "C" fn() -> *const c_char,
}

/// A pointer to a function of any type.
type Entry = *const c_void;

functions! {
    /// The function that the library exports.
    struct Exports {
        get_api_base = "OrtGetApiBase" () -> *const Base;
    }
}

/// A status: null, or an error that the caller owns.
pub(crate) type Status = *mut RawStatus;

/// Starts a thread: options, function of the thread, argument of that function.
pub(crate) type StartThread =
    unsafe extern "C" fn(*mut c_void, unsafe extern "C" fn(*mut c_void), *mut c_void) -> *mut c_void;

/// Defines the table from a list of positions, names and types.
macro_rules! entries {
    ($($position:literal $field:ident ($($argument:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        /// The entries that are used. Each field is named after its function.
        pub(crate) struct Api {
            version: String,
            $(pub(crate) $field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Api {
            /// Reads the entries of a table.
            ///
            /// # Safety
            ///
            /// `table` must be an `OrtApi` of version [`VERSION`] or later.
            unsafe fn read(version: String, table: *const Entry) -> Self {
                Self {
                    version,
                    $(
                        // SAFETY: the table has an entry of this type at this position, which is not null.
                        $field: unsafe { std::mem::transmute::<
                            Entry,
                            unsafe extern "C" fn($($argument),*) $(-> $result)?,
                        >(*table.add($position)) },
                    )*
                }
            }
        }
    };
}

entries! {
    1 get_error_code(*const RawStatus) -> c_int;
    2 get_error_message(*const RawStatus) -> *const c_char;
    93 release_status(*mut RawStatus);

    121 create_threading_options(*mut *mut RawThreadingOptions) -> Status;
    147 set_global_intra_op_num_threads(*mut RawThreadingOptions, c_int) -> Status;
    148 set_global_inter_op_num_threads(*mut RawThreadingOptions, c_int) -> Status;
    149 set_global_spin_control(*mut RawThreadingOptions, c_int) -> Status;
    122 release_threading_options(*mut RawThreadingOptions);
    119 create_env_with_global_thread_pools(
        c_int, *const c_char, *const RawThreadingOptions, *mut *mut RawEnv,
    ) -> Status;
    6 disable_telemetry_events(*const RawEnv) -> Status;
    92 release_env(*mut RawEnv);

    10 create_session_options(*mut *mut RawSessionOptions) -> Status;
    17 disable_mem_pattern(*mut RawSessionOptions) -> Status;
    19 disable_cpu_mem_arena(*mut RawSessionOptions) -> Status;
    23 set_session_graph_optimization_level(*mut RawSessionOptions, c_int) -> Status;
    24 set_intra_op_num_threads(*mut RawSessionOptions, c_int) -> Status;
    25 set_inter_op_num_threads(*mut RawSessionOptions, c_int) -> Status;
    120 disable_per_session_threads(*mut RawSessionOptions) -> Status;
    130 add_session_config_entry(*mut RawSessionOptions, *const c_char, *const c_char) -> Status;
    196 session_options_set_custom_create_thread_fn(*mut RawSessionOptions, StartThread) -> Status;
    197 session_options_set_custom_thread_creation_options(*mut RawSessionOptions, *mut c_void) -> Status;
    198 session_options_set_custom_join_thread_fn(*mut RawSessionOptions, unsafe extern "C" fn(*mut c_void)) -> Status;
    100 release_session_options(*mut RawSessionOptions);

    204 session_options_append_execution_provider_cuda_v2(*mut RawSessionOptions, *const RawCudaOptions) -> Status;
    205 create_cuda_provider_options(*mut *mut RawCudaOptions) -> Status;
    206 update_cuda_provider_options(
        *mut RawCudaOptions, *const *const c_char, *const *const c_char, usize,
    ) -> Status;
    208 release_cuda_provider_options(*mut RawCudaOptions);
    125 get_available_providers(*mut *mut *mut c_char, *mut c_int) -> Status;
    126 release_available_providers(*mut *mut c_char, c_int) -> Status;

    7 create_session(*const RawEnv, *const c_char, *const RawSessionOptions, *mut *mut RawSession) -> Status;
    9 run(
        *mut RawSession, *const RawRunOptions, *const *const c_char, *const *const RawValue, usize,
        *const *const c_char, usize, *mut *mut RawValue,
    ) -> Status;
    95 release_session(*mut RawSession);
    30 session_get_input_count(*const RawSession, *mut usize) -> Status;
    31 session_get_output_count(*const RawSession, *mut usize) -> Status;
    32 session_get_overridable_initializer_count(*const RawSession, *mut usize) -> Status;
    33 session_get_input_type_info(*const RawSession, usize, *mut *mut RawTypeInfo) -> Status;
    34 session_get_output_type_info(*const RawSession, usize, *mut *mut RawTypeInfo) -> Status;
    35 session_get_overridable_initializer_type_info(*const RawSession, usize, *mut *mut RawTypeInfo) -> Status;
    36 session_get_input_name(*const RawSession, usize, *mut RawAllocator, *mut *mut c_char) -> Status;
    37 session_get_output_name(*const RawSession, usize, *mut RawAllocator, *mut *mut c_char) -> Status;
    38 session_get_overridable_initializer_name(
        *const RawSession, usize, *mut RawAllocator, *mut *mut c_char,
    ) -> Status;

    56 get_onnx_type_from_type_info(*const RawTypeInfo, *mut c_int) -> Status;
    55 cast_type_info_to_tensor_info(*const RawTypeInfo, *mut *const RawTensorInfo) -> Status;
    104 cast_type_info_to_sequence_type_info(*const RawTypeInfo, *mut *const RawSequenceInfo) -> Status;
    107 get_sequence_element_type(*const RawSequenceInfo, *mut *mut RawTypeInfo) -> Status;
    103 cast_type_info_to_map_type_info(*const RawTypeInfo, *mut *const RawMapInfo) -> Status;
    105 get_map_key_type(*const RawMapInfo, *mut c_int) -> Status;
    106 get_map_value_type(*const RawMapInfo, *mut *mut RawTypeInfo) -> Status;
    98 release_type_info(*mut RawTypeInfo);

    65 get_tensor_type_and_shape(*const RawValue, *mut *mut RawTensorInfo) -> Status;
    60 get_tensor_element_type(*const RawTensorInfo, *mut c_int) -> Status;
    61 get_dimensions_count(*const RawTensorInfo, *mut usize) -> Status;
    62 get_dimensions(*const RawTensorInfo, *mut i64, usize) -> Status;
    99 release_tensor_type_and_shape_info(*mut RawTensorInfo);

    69 create_cpu_memory_info(c_int, c_int, *mut *mut RawMemoryInfo) -> Status;
    78 get_allocator_with_default_options(*mut *mut RawAllocator) -> Status;
    76 allocator_free(*mut RawAllocator, *mut c_void) -> Status;

    49 create_tensor_with_data_as_ort_value(
        *const RawMemoryInfo, *mut c_void, usize, *const i64, usize, c_int, *mut *mut RawValue,
    ) -> Status;
    48 create_tensor_as_ort_value(*mut RawAllocator, *const i64, usize, c_int, *mut *mut RawValue) -> Status;
    252 get_resized_string_tensor_element_buffer(*mut RawValue, usize, usize, *mut *mut c_char) -> Status;
    53 get_string_tensor_data_length(*const RawValue, *mut usize) -> Status;
    54 get_string_tensor_content(*const RawValue, *mut c_void, usize, *mut usize, usize) -> Status;
    51 get_tensor_mutable_data(*mut RawValue, *mut *mut c_void) -> Status;
    81 get_value_count(*const RawValue, *mut usize) -> Status;
    80 get_value(*const RawValue, c_int, *mut RawAllocator, *mut *mut RawValue) -> Status;
    96 release_value(*mut RawValue);

    39 create_run_options(*mut *mut RawRunOptions) -> Status;
    41 run_options_set_run_log_severity_level(*mut RawRunOptions, c_int) -> Status;
    46 run_options_set_terminate(*mut RawRunOptions) -> Status;
    47 run_options_unset_terminate(*mut RawRunOptions) -> Status;
    97 release_run_options(*mut RawRunOptions);

}

impl Api {
    /// Loads the library, and reads the table. The library is never unloaded.
    pub(crate) fn open(path: &Path) -> Result<&'static Self, OpenError> {
        // SAFETY: the initialisers of ONNX Runtime's library may run in any process. The library exports this function.
        let (base, version) = unsafe {
            let library = Library::open(path)?;
            let base = (Exports::look_up(&library)?.get_api_base)();
            (base, CStr::from_ptr(((*base).version)()).to_string_lossy().into_owned())
        };
        // SAFETY: the function takes any number, and gives a table of that version, or null.
        let table = unsafe { ((*base).get_api)(VERSION) };
        if table.is_null() {
            let wanted = "1.15 or later of the same major version".to_owned();
            return Err(OpenError::Version { library: path.to_owned(), found: version, wanted });
        }
        // SAFETY: the table is static, and of the version that was asked for.
        Ok(Box::leak(Box::new(unsafe { Self::read(version, table) })))
    }

    /// The version of ONNX Runtime, such as `1.23.2`.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }
}
