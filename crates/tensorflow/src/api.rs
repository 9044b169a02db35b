//! The table of C functions, looked up once in the libraries of the installed wheel.
//!
//! Declarations follow the wheel's headers (`tensorflow/c/c_api.h`, `tf_tensor.h`, `tf_status.h`, `tf_buffer.h`), which
//! TensorFlow keeps compatible within major version 2. Ownership is documented at each call.

use std::ffi::{c_char, c_int, c_void};
use std::path::Path;

use servable_native::{Library, OpenError, functions, opaque};

/// The names of the two libraries: the first has tensors and the registry of operations, the second everything else.
#[cfg(not(target_os = "macos"))]
const LIBRARIES: (&str, &str) = ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2");
#[cfg(target_os = "macos")]
const LIBRARIES: (&str, &str) = ("libtensorflow_framework.2.dylib", "libtensorflow_cc.2.dylib");

opaque! {
    /// `TF_DeviceList`.
    RawDeviceList
    /// `TF_Graph`.
    RawGraph
    /// `TF_Library`.
    RawLibrary
    /// `TF_Operation`; owned by its graph.
    RawOperation
    /// `TF_Session`.
    RawSession
    /// `TF_SessionOptions`.
    RawSessionOptions
    /// `TF_Status`.
    RawStatus
    /// `TF_Tensor`.
    RawTensor
}

/// `TF_Buffer`: bytes, usually a serialized message, and how to free them.
#[repr(C)]
pub(crate) struct RawBuffer {
    pub(crate) data: *const c_void,
    pub(crate) length: usize,
    pub(crate) deallocator: Option<unsafe extern "C" fn(*mut c_void, usize)>,
}

/// `TF_Output`: an output of an operation. A tensor name `operation:index` denotes one.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct RawOutput {
    pub(crate) operation: *mut RawOperation,
    pub(crate) index: c_int,
}

/// The runtime calls it once, when it no longer needs the memory of a tensor: memory, length, argument.
pub(crate) type Deallocator = unsafe extern "C" fn(*mut c_void, usize, *mut c_void);

functions! {
    /// The functions. Each field is named after its symbol.
    struct Api {
        version = "TF_Version" () -> *const c_char;

        new_status = "TF_NewStatus" () -> *mut RawStatus;
        delete_status = "TF_DeleteStatus" (*mut RawStatus);
        get_code = "TF_GetCode" (*const RawStatus) -> c_int;
        message = "TF_Message" (*const RawStatus) -> *const c_char;

        new_buffer = "TF_NewBuffer" () -> *mut RawBuffer;
        delete_buffer = "TF_DeleteBuffer" (*mut RawBuffer);

        new_tensor = "TF_NewTensor" (
            c_int, *const i64, c_int, *mut c_void, usize, Option<Deallocator>, *mut c_void,
        ) -> *mut RawTensor;
        delete_tensor = "TF_DeleteTensor" (*mut RawTensor);
        tensor_type = "TF_TensorType" (*const RawTensor) -> c_int;
        num_dims = "TF_NumDims" (*const RawTensor) -> c_int;
        dim = "TF_Dim" (*const RawTensor, c_int) -> i64;
        tensor_byte_size = "TF_TensorByteSize" (*const RawTensor) -> usize;
        tensor_data = "TF_TensorData" (*const RawTensor) -> *mut c_void;

        new_graph = "TF_NewGraph" () -> *mut RawGraph;
        delete_graph = "TF_DeleteGraph" (*mut RawGraph);
        graph_operation_by_name = "TF_GraphOperationByName" (*mut RawGraph, *const c_char) -> *mut RawOperation;

        new_session_options = "TF_NewSessionOptions" () -> *mut RawSessionOptions;
        delete_session_options = "TF_DeleteSessionOptions" (*mut RawSessionOptions);
        set_config = "TF_SetConfig" (*mut RawSessionOptions, *const c_void, usize, *mut RawStatus);
        new_session = "TF_NewSession" (*mut RawGraph, *const RawSessionOptions, *mut RawStatus) -> *mut RawSession;
        load_session_from_saved_model = "TF_LoadSessionFromSavedModel" (
            *const RawSessionOptions, *const RawBuffer, *const c_char, *const *const c_char, c_int, *mut RawGraph,
            *mut RawBuffer, *mut RawStatus,
        ) -> *mut RawSession;
        close_session = "TF_CloseSession" (*mut RawSession, *mut RawStatus);
        delete_session = "TF_DeleteSession" (*mut RawSession, *mut RawStatus);
        session_run = "TF_SessionRun" (
            *mut RawSession, *const RawBuffer, *const RawOutput, *const *mut RawTensor, c_int, *const RawOutput,
            *mut *mut RawTensor, c_int, *const *const RawOperation, c_int, *mut RawBuffer, *mut RawStatus,
        );

        session_list_devices = "TF_SessionListDevices" (*mut RawSession, *mut RawStatus) -> *mut RawDeviceList;
        delete_device_list = "TF_DeleteDeviceList" (*mut RawDeviceList);
        device_list_count = "TF_DeviceListCount" (*const RawDeviceList) -> c_int;
        device_list_name = "TF_DeviceListName" (*const RawDeviceList, c_int, *mut RawStatus) -> *const c_char;
        device_list_type = "TF_DeviceListType" (*const RawDeviceList, c_int, *mut RawStatus) -> *const c_char;
        device_list_memory_bytes = "TF_DeviceListMemoryBytes" (*const RawDeviceList, c_int, *mut RawStatus) -> i64;

        load_library = "TF_LoadLibrary" (*const c_char, *mut RawStatus) -> *mut RawLibrary;
        get_op_list = "TF_GetOpList" (*mut RawLibrary) -> RawBuffer;
        delete_library_handle = "TF_DeleteLibraryHandle" (*mut RawLibrary);
    }
}

impl Api {
    /// Loads the libraries below `directory`, and looks up the functions. The libraries are never unloaded.
    pub(crate) fn open(directory: &Path) -> Result<&'static Self, OpenError> {
        // The second library depends on the first, which is loaded explicitly so that an error can name it.
        // SAFETY: the initialisers of TensorFlow's libraries may run in any process.
        let library = unsafe {
            Library::open(&directory.join(LIBRARIES.0))?;
            Library::open(&directory.join(LIBRARIES.1))?
        };
        // Functions of the framework library are found as well, because it is a dependency of this one.
        // SAFETY: this is TensorFlow's library by its name. Its headers declare these functions.
        let api = unsafe { Self::look_up(&library)? };
        Ok(Box::leak(Box::new(api)))
    }

    /// Moves the loaded libraries below `directory` to the global scope, as `import tensorflow` does.
    ///
    /// Libraries of operations contain copies of protobuf and absl. In local scope they would use these copies, which
    /// have a different hash seed. They would then find nothing in a map that TensorFlow filled, and abort.
    pub(crate) fn promote(directory: &Path) -> Result<(), OpenError> {
        // SAFETY: the libraries are open. The caller of `Runtime::load_library` answers for the global scope.
        unsafe {
            Library::open_globally(&directory.join(LIBRARIES.0))?;
            Library::open_globally(&directory.join(LIBRARIES.1))?;
        }
        Ok(())
    }
}
