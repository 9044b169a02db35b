//! The table of C functions, looked up once in the library of the installed wheel.
//!
//! Declarations follow `LiteRT`'s headers (`litert/c/*.h`) since version 2.1.6. The wheel has no headers, so tests call each
//! function. The structs are stable by the headers' own words. Ownership is documented at each call.

use std::ffi::{c_char, c_int, c_void};
use std::path::Path;

use servable_native::{Library, OpenError, functions, opaque};

use crate::file::MAX_RANK;

opaque! {
    /// `LiteRtEnvironmentT`.
    RawEnvironment
    /// `LiteRtModelT`.
    RawModel
    /// `LiteRtOptionsT`.
    RawOptions
    /// `LiteRtOpaqueOptionsT`: options as text, for one part of the runtime.
    RawOpaqueOptions
    /// `LiteRtCompiledModelT`.
    RawCompiledModel
    /// `LiteRtTensorBufferT`: memory with a type.
    RawTensorBuffer
}

/// `LiteRtStatus`; 0 is success.
pub(crate) type RawStatus = c_int;

/// `LiteRtEnvOption`, with a value of type `int64_t`.
#[repr(C)]
pub(crate) struct RawEnvironmentOption {
    pub(crate) tag: c_int,
    pub(crate) value_type: c_int,
    _padding: c_int,
    pub(crate) value: i64,
}

impl RawEnvironmentOption {
    /// The hardware whose accelerators are registered.
    const ACCELERATORS: c_int = 24;
    /// The lowest severity that is logged.
    const LOG_SEVERITY: c_int = 25;

    /// Only the CPU: the others would be searched on the disk. Nothing is logged, because a stranger could fill the log;
    /// every error is reported as a status.
    pub(crate) const OF_A_SERVER: [Self; 2] =
        [Self::number(Self::ACCELERATORS, CPU as i64), Self::number(Self::LOG_SEVERITY, 4)];

    const fn number(tag: c_int, value: i64) -> Self {
        Self { tag, value_type: 2, _padding: 0, value }
    }
}

/// `kLiteRtHwAcceleratorCpu`.
pub(crate) const CPU: c_int = 1;

/// `LiteRtLayout`: the shape of a tensor.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct RawLayout {
    /// Seven bits of rank, and one that says whether there are strides.
    pub(crate) rank: u32,
    pub(crate) dimensions: [i32; MAX_RANK],
    pub(crate) strides: [u32; MAX_RANK],
}

/// `LiteRtRankedTensorType`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct RawTensorType {
    pub(crate) element_type: c_int,
    pub(crate) layout: RawLayout,
}

const _: () = assert!(size_of::<RawEnvironmentOption>() == 24);
const _: () = assert!(size_of::<RawLayout>() == 68);
const _: () = assert!(size_of::<RawTensorType>() == 72);

/// Returns whether the run is to be cancelled; called before each operator.
pub(crate) type CheckCancelled = unsafe extern "C" fn(*mut c_void) -> bool;

functions! {
    /// The functions. Each field is named after its symbol.
    struct Api {
        create_environment = "LiteRtCreateEnvironment" (
            c_int, *const RawEnvironmentOption, *mut *mut RawEnvironment,
        ) -> RawStatus;

        create_model_from_buffer = "LiteRtCreateModelFromBuffer" (
            *mut RawEnvironment, *const c_void, usize, *mut *mut RawModel,
        ) -> RawStatus;
        destroy_model = "LiteRtDestroyModel" (*mut RawModel);

        create_options = "LiteRtCreateOptions" (*mut *mut RawOptions) -> RawStatus;
        destroy_options = "LiteRtDestroyOptions" (*mut RawOptions);
        set_hardware_accelerators = "LiteRtSetOptionsHardwareAccelerators" (*mut RawOptions, c_int) -> RawStatus;
        create_opaque_options = "LiteRtCreateOpaqueOptions" (
            *const c_char, *mut c_void, Option<unsafe extern "C" fn(*mut c_void)>, *mut *mut RawOpaqueOptions,
        ) -> RawStatus;
        add_opaque_options = "LiteRtAddOpaqueOptions" (*mut RawOptions, *mut RawOpaqueOptions) -> RawStatus;

        create_compiled_model = "LiteRtCreateCompiledModel" (
            *mut RawEnvironment, *mut RawModel, *mut RawOptions, *mut *mut RawCompiledModel,
        ) -> RawStatus;
        destroy_compiled_model = "LiteRtDestroyCompiledModel" (*mut RawCompiledModel);
        resize_input = "LiteRtCompiledModelResizeInputTensorNonStrict" (
            *mut RawCompiledModel, usize, usize, *const c_int, usize,
        ) -> RawStatus;
        output_layouts = "LiteRtGetCompiledModelOutputTensorLayouts" (
            *mut RawCompiledModel, usize, usize, *mut RawLayout, bool,
        ) -> RawStatus;
        set_cancellation = "LiteRtSetCompiledModelCancellationFunction" (
            *mut RawCompiledModel, *mut c_void, Option<CheckCancelled>,
        ) -> RawStatus;
        run = "LiteRtRunCompiledModel" (
            *mut RawCompiledModel, usize, usize, *const *mut RawTensorBuffer, usize, *const *mut RawTensorBuffer,
        ) -> RawStatus;
        error_messages = "LiteRtCompiledModelGetErrorMessages" (*mut RawCompiledModel, *mut *mut c_char) -> RawStatus;
        clear_errors = "LiteRtCompiledModelClearErrors" (*mut RawCompiledModel) -> RawStatus;

        create_tensor_buffer = "LiteRtCreateTensorBufferFromHostMemory" (
            *const RawTensorType, *mut c_void, usize, Option<unsafe extern "C" fn(*mut c_void)>,
            *mut *mut RawTensorBuffer,
        ) -> RawStatus;
        destroy_tensor_buffer = "LiteRtDestroyTensorBuffer" (*mut RawTensorBuffer);
    }
}

impl Api {
    /// Loads the library, and looks up the functions. It is never unloaded.
    pub(crate) fn open(path: &Path) -> Result<&'static Self, OpenError> {
        // SAFETY: the initialisers of LiteRT may run in any process.
        let library = unsafe { Library::open(path)? };
        // Version 2.1.6 changed the arguments of functions, and added this one.
        // SAFETY: the function is only looked up.
        let newer = unsafe { library.function::<unsafe extern "C" fn()>("LiteRtCreateModelFromFd\0") };
        if newer.is_err() {
            return Err(OpenError::Version {
                library: path.to_owned(),
                found: "below 2.1.6".to_owned(),
                wanted: "2.1.6 or later".to_owned(),
            });
        }
        // SAFETY: this is LiteRT's library by its name. Its headers declare these functions.
        let api = unsafe { Self::look_up(&library)? };
        Ok(Box::leak(Box::new(api)))
    }
}
