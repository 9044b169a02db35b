//! The table of C functions, looked up once in the libraries of the installed wheel.
//!
//! Declarations follow the wheel's headers (`tensorflow/c/c_api.h`, `tf_tensor.h`, `tf_status.h`, `tf_buffer.h`), which
//! TensorFlow keeps compatible within major version 2. Ownership is documented at each call.

use std::ffi::{c_char, c_int, c_void};
use std::fmt;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LAZY, RTLD_LOCAL};

/// The names of the two libraries: the first has tensors and the registry of operations, the second everything else.
#[cfg(not(target_os = "macos"))]
const LIBRARIES: (&str, &str) = ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2");
#[cfg(target_os = "macos")]
const LIBRARIES: (&str, &str) = ("libtensorflow_framework.2.dylib", "libtensorflow_cc.2.dylib");

/// Opaque objects of the C API. Only pointers to them are used here.
macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[repr(C)]
        pub(crate) struct $name {
            _opaque: [u8; 0],
        }
    )*};
}

opaque! {
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

/// Defines the table and the look-up from one list, so that they cannot differ.
macro_rules! functions {
    ($($field:ident = $symbol:literal ($($argument:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        /// The functions. Each field is named after its symbol.
        pub(crate) struct Api {
            $(pub(crate) $field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Api {
            /// Looks every function up.
            ///
            /// # Safety
            ///
            /// `library` must be TensorFlow, and must stay loaded while the result is used.
            unsafe fn look_up(library: &Library, path: &Path) -> Result<Self, OpenError> {
                Ok(Self {$(
                    $field: {
                        // SAFETY: the symbol, if it exists, is the function that the headers of TensorFlow declare.
                        let symbol = unsafe { library.get(concat!($symbol, "\0").as_bytes()) };
                        *symbol.map_err(|_| OpenError::Symbol { library: path.to_owned(), name: $symbol })?
                    },
                )*})
            }
        }
    };
}

functions! {
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

    load_library = "TF_LoadLibrary" (*const c_char, *mut RawStatus) -> *mut RawLibrary;
    get_op_list = "TF_GetOpList" (*mut RawLibrary) -> RawBuffer;
    delete_library_handle = "TF_DeleteLibraryHandle" (*mut RawLibrary);
}

impl Api {
    /// Loads the libraries below `directory`, and looks up the functions. The libraries are never unloaded.
    pub(crate) fn open(directory: &Path) -> Result<&'static Self, OpenError> {
        // The second library depends on the first, which is loaded explicitly so that an error can name it.
        load(&directory.join(LIBRARIES.0), RTLD_LOCAL)?;
        let path = directory.join(LIBRARIES.1);
        let library = load(&path, RTLD_LOCAL)?;
        // Functions of the framework library are found as well, because it is a dependency of this one.
        // SAFETY: this is TensorFlow's library by its name, and `load` never unloads it.
        let api = unsafe { Self::look_up(&library, &path)? };
        Ok(Box::leak(Box::new(api)))
    }

    /// Moves the loaded libraries below `directory` to the global scope, as `import tensorflow` does.
    ///
    /// Libraries of operations contain copies of protobuf and absl. In local scope they would use these copies, which
    /// have a different hash seed. They would then find nothing in a map that TensorFlow filled, and abort.
    pub(crate) fn promote(directory: &Path) -> Result<(), OpenError> {
        load(&directory.join(LIBRARIES.0), RTLD_GLOBAL)?;
        load(&directory.join(LIBRARIES.1), RTLD_GLOBAL)?;
        Ok(())
    }
}

/// Loads one library. It is never unloaded, because it has started threads and registered objects that others refer to.
///
/// Loading it again only changes the scope. The scope is local if possible: these libraries export protobuf, absl and
/// `BoringSSL`. In global scope, libraries that are loaded later would use these instead of their own.
fn load(path: &Path, scope: c_int) -> Result<ManuallyDrop<Library>, OpenError> {
    // SAFETY: loading runs the initialisers of the library, which those of TensorFlow allow.
    let library = unsafe { Library::open(Some(path), RTLD_LAZY | scope) };
    library.map(ManuallyDrop::new).map_err(|error| {
        let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        // The dynamic linker usually begins with the path itself.
        let reason = reason.strip_prefix(&format!("{}: ", path.display())).unwrap_or(&reason).to_owned();
        OpenError::Library { path: path.to_owned(), reason }
    })
}

/// Why the runtime cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// A library is missing or cannot be loaded.
    Library {
        /// The file.
        path: PathBuf,
        /// The error of the dynamic linker.
        reason: String,
    },
    /// A library lacks a function: it is too old, or not TensorFlow's.
    Symbol {
        /// The file that was searched, together with its dependencies.
        library: PathBuf,
        /// The function.
        name: &'static str,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Library { path, reason } => write!(f, "cannot load {}: {reason}", path.display()),
            Self::Symbol { library, name } => write!(f, "{} does not export {name}", library.display()),
        }
    }
}

impl std::error::Error for OpenError {}
