//! The runtime of one installed wheel: loads its libraries, and models through them.

use std::collections::HashSet;
use std::ffi::{CStr, CString, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use servable_codec::wire::{Malformed, Reader, Value};
use servable_model::error::{Result, ServingError};
use servable_native::OpenError;

use crate::api::{Api, RawBuffer, RawSession, RawSessionOptions};
use crate::devices::{self, Device};
use crate::pools::{Pools, with_pools};
use crate::session::{CALLER_THREAD, Graph, RunOptionsMessage, Session};
use crate::status::Status;
use crate::termination::{self, Termination};

/// The TensorFlow of an installed wheel.
///
/// Libraries are never unloaded. Opening the same directory twice is cheap, and gives the same runtime. The runtime
/// logs to standard error. It reads the log level from the environment variable `TF_CPP_MIN_LOG_LEVEL` when it is
/// loaded.
pub struct Runtime {
    api: &'static Api,
    library_directory: PathBuf,
    have_started_threads: Mutex<bool>,
    pools: Arc<Pools>,
    /// The devices of the first session: later sessions have the same.
    devices: OnceLock<Vec<Device>>,
    /// The operations of libraries that were loaded. Nothing is known about their termination.
    foreign_operations: Mutex<HashSet<Box<str>>>,
}

/// The options to load and run a model.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The tags of the meta graph: exactly these, in any order.
    pub tags: Vec<String>,
    /// A serialized `tensorflow.ConfigProto`; empty for the runtime's defaults.
    pub session_config: Vec<u8>,
    /// The index of the pool in `session_config` that restores and initialises the model; `None` for the first.
    pub load_thread_pool: Option<i32>,
    /// Whether runs execute in the caller's thread instead of the thread pool of the runtime.
    pub run_in_caller_thread: bool,
    /// The maximum duration of a run; `None` for no limit.
    pub longest_run: Option<Duration>,
}

/// A loaded model.
pub struct LoadedModel {
    /// The serialized `tensorflow.MetaGraphDef`: signatures, and much else.
    pub meta_graph: Vec<u8>,
    /// The session that runs it.
    pub session: Session,
}

impl Runtime {
    /// Loads the runtime from a directory with its two libraries, such as `site-packages/tensorflow`.
    ///
    /// # Errors
    ///
    /// An [`OpenError`] that names the file or the function that is missing.
    pub fn open(library_directory: &Path) -> Result<Arc<Self>, OpenError> {
        Ok(Arc::new(Self {
            api: Api::open(library_directory)?,
            library_directory: library_directory.to_owned(),
            have_started_threads: Mutex::default(),
            pools: Arc::default(),
            devices: OnceLock::new(),
            foreign_operations: Mutex::default(),
        }))
    }

    /// The version of TensorFlow, such as `2.21.0`.
    pub fn version(&self) -> String {
        // SAFETY: the text ends in a NUL and is static.
        let version = unsafe { CStr::from_ptr((self.api.version)()) };
        version.to_string_lossy().into_owned()
    }

    /// The devices of the runtime; empty before the first load, because TensorFlow configures devices with its first
    /// session.
    pub fn devices(&self) -> &[Device] {
        self.devices.get().map_or(&[], Vec::as_slice)
    }

    /// Keeps the devices of a session, unless they are known.
    ///
    /// # Safety
    ///
    /// The session must be alive and open.
    unsafe fn note_devices(&self, session: NonNull<RawSession>) {
        if self.devices.get().is_none() {
            // SAFETY: the caller vouches for the session.
            if let Ok(devices) = unsafe { devices::list(self.api, session.as_ptr()) } {
                let _ = self.devices.set(devices);
            }
        }
    }

    /// Loads a library of operations, for all models that are loaded afterwards.
    ///
    /// The first call moves the symbols of TensorFlow, including `BoringSSL`, to the global scope of the process. If
    /// the process uses OpenSSL, the caller must load and bind that before.
    ///
    /// # Errors
    ///
    /// `NOT_FOUND` if the library is missing or cannot be loaded, with the error of the dynamic linker.
    pub fn load_library(&self, path: &Path) -> Result<()> {
        let path = c_path(path)?;
        Api::promote(&self.library_directory).map_err(|error| ServingError::internal(error.to_string()))?;
        let mut status = Status::new(self.api);
        // SAFETY: the path ends in a NUL. The library runs its initialisers, as the caller wants.
        let library = unsafe { (self.api.load_library)(path.as_ptr(), status.as_mut_ptr()) };
        status.check()?;
        // SAFETY: the list belongs to the handle, which is alive until the names are copied.
        let names = unsafe {
            let list = (self.api.get_op_list)(library);
            operation_names(bytes_of(&list))
        };
        self.foreign_operations.lock().unwrap_or_else(PoisonError::into_inner).extend(names.unwrap_or_default());
        // SAFETY: frees the handle, not the library.
        unsafe { (self.api.delete_library_handle)(library) };
        Ok(())
    }

    /// Starts the threads that all sessions share, unless they have been started.
    ///
    /// The threads inherit the priority of the calling thread, and `session_config` sets their numbers. Without this
    /// call, the first load decides both.
    ///
    /// # Errors
    ///
    /// The error of the runtime, for example if the configuration is no `tensorflow.ConfigProto`.
    pub fn start_threads(&self, session_config: &[u8], run_in_caller_thread: bool) -> Result<()> {
        let mut have_started = self.have_started_threads.lock().unwrap_or_else(PoisonError::into_inner);
        if *have_started {
            return Ok(());
        }
        let config = run_in_caller_thread.then(|| with_pools(session_config)).flatten();
        let session_options = SessionOptions::new(self.api, config.as_deref().unwrap_or(session_config))?;
        let mut graph = Graph::new(self.api);
        let mut status = Status::new(self.api);
        // SAFETY: all arguments are alive. The session gets a reference to the graph.
        let session = unsafe { (self.api.new_session)(graph.as_mut_ptr(), session_options.raw, status.as_mut_ptr()) };
        status.check()?;
        let session = NonNull::new(session).ok_or_else(|| ServingError::internal("the runtime returned no session"))?;
        // SAFETY: the session was just made.
        unsafe { self.note_devices(session) };
        // SAFETY: the session was just made on this graph, and is ours. Dropping it closes it.
        drop(unsafe { Session::from_raw(self.api, session, graph, true, None, Termination::default()) });
        *have_started = true;
        Ok(())
    }

    /// Loads a `SavedModel`: reads the graph, restores the variables, and runs the initialisation operation.
    ///
    /// Blocks until the model is loaded. May be called from several threads concurrently.
    ///
    /// # Errors
    ///
    /// `NOT_FOUND` if there is no `SavedModel` in `directory`, or it has no meta graph with these tags. `UNIMPLEMENTED`
    /// for a session bundle, the older format. Otherwise the code and text of the runtime. An operation that is not
    /// registered is `NOT_FOUND` too, with a text that begins `Op type not registered '<type>'`.
    pub fn load_saved_model(&self, directory: &Path, options: &LoadOptions) -> Result<LoadedModel> {
        check_saved_model_files(directory)?;
        let path = c_path(directory)?;
        let tags: Vec<CString> = options.tags.iter().map(|tag| c_string(tag.as_bytes())).collect::<Result<_>>()?;
        let tag_pointers: Vec<_> = tags.iter().map(|tag| tag.as_ptr()).collect();
        let config = options.run_in_caller_thread.then(|| with_pools(&options.session_config)).flatten();
        let session_options = SessionOptions::new(self.api, config.as_deref().unwrap_or(&options.session_config))?;
        // In the threads of requests, the restore of variables would delay requests. The calling thread has the
        // priority of a load, and so do the threads that the restore of large tensors starts.
        let pool = options.load_thread_pool.or(options.run_in_caller_thread.then_some(CALLER_THREAD));
        let run_options = pool.map(RunOptionsMessage::for_pool);
        let run_options = run_options.as_ref().map(RunOptionsMessage::buffer);
        let mut graph = Graph::new(self.api);
        let meta_graph = MessageBuffer::new(self.api);
        let mut status = Status::new(self.api);
        // SAFETY: all arguments are alive, strings end in a NUL, the length of the array of tags is right, and the
        // graph is new. The runtime keeps only the graph, to which the session gets a reference.
        let session = unsafe {
            (self.api.load_session_from_saved_model)(
                session_options.raw,
                run_options.as_ref().map_or(ptr::null(), ptr::from_ref),
                path.as_ptr(),
                tag_pointers.as_ptr(),
                tag_pointers.len() as c_int,
                graph.as_mut_ptr(),
                meta_graph.raw,
                status.as_mut_ptr(),
            )
        };
        status.check()?;
        let session = NonNull::new(session).ok_or_else(|| ServingError::internal("the runtime returned no session"))?;
        // SAFETY: the session was just made.
        unsafe { self.note_devices(session) };
        let meta_graph = meta_graph.to_vec();
        let foreign = self.foreign_operations.lock().unwrap_or_else(PoisonError::into_inner);
        let termination = termination::of_meta_graph(&meta_graph, |operation| foreign.contains(operation));
        drop(foreign);
        // SAFETY: the session was just made on this graph, and is ours.
        let session = unsafe {
            let in_caller_thread = options.run_in_caller_thread;
            Session::from_raw(self.api, session, graph, in_caller_thread, options.longest_run, termination)
        };
        let session = if config.is_some() { session.with_pools(&self.pools) } else { session };
        Ok(LoadedModel { meta_graph, session })
    }
}

/// The names of the operations in a serialized `tensorflow.OpList`.
fn operation_names(list: &[u8]) -> Result<Vec<Box<str>>, Malformed> {
    let (mut names, mut operations) = (Vec::new(), Reader::new(list));
    while let Some(field) = operations.next_field()? {
        let (1, Value::Length(operation)) = (field.number, field.value) else { continue };
        let mut fields = operations.nested(operation)?;
        while let Some(field) = fields.next_field()? {
            if let (1, Value::Length(name)) = (field.number, field.value) {
                names.push(String::from_utf8_lossy(name).into());
            }
        }
    }
    Ok(names)
}

/// The bytes of a buffer that the runtime has filled.
///
/// # Safety
///
/// The memory of the buffer must be alive while it is borrowed.
unsafe fn bytes_of(buffer: &RawBuffer) -> &[u8] {
    if buffer.data.is_null() {
        return &[];
    }
    // SAFETY: a buffer with data has that many bytes.
    unsafe { std::slice::from_raw_parts(buffer.data.cast::<u8>(), buffer.length) }
}

/// Fails with the errors of TensorFlow Serving if the directory holds no `SavedModel`. Called before the runtime loads
/// it.
fn check_saved_model_files(directory: &Path) -> Result<()> {
    if directory.join("export.meta").exists() {
        return Err(ServingError::unimplemented("Session Bundle is deprecated and removed."));
    }
    if ["saved_model.pb", "saved_model.pbtxt"].iter().any(|name| directory.join(name).exists()) {
        return Ok(());
    }
    let mut text = b"Specified file path does not appear to contain a SavedModel bundle (should have a file called \
        `saved_model.pb`)\nSpecified file path: "
        .to_vec();
    text.extend_from_slice(directory.as_os_str().as_bytes());
    Err(ServingError::not_found(text))
}

fn c_path(path: &Path) -> Result<CString> {
    c_string(path.as_os_str().as_bytes())
}

fn c_string(text: &[u8]) -> Result<CString> {
    CString::new(text).map_err(|_| ServingError::invalid_argument("a path or tag has a NUL byte in it"))
}

/// An owned `TF_SessionOptions`.
struct SessionOptions {
    api: &'static Api,
    raw: *mut RawSessionOptions,
}

impl SessionOptions {
    fn new(api: &'static Api, config: &[u8]) -> Result<Self> {
        // SAFETY: takes nothing; the result is ours.
        let options = Self { api, raw: unsafe { (api.new_session_options)() } };
        if !config.is_empty() {
            let mut status = Status::new(api);
            // SAFETY: the length of the message is right, and the message is parsed before the function returns.
            unsafe { (api.set_config)(options.raw, config.as_ptr().cast(), config.len(), status.as_mut_ptr()) };
            status.check()?;
        }
        Ok(options)
    }
}

impl Drop for SessionOptions {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after.
        unsafe { (self.api.delete_session_options)(self.raw) }
    }
}

/// An owned `TF_Buffer` that the runtime fills with a message.
struct MessageBuffer {
    api: &'static Api,
    raw: *mut RawBuffer,
}

impl MessageBuffer {
    fn new(api: &'static Api) -> Self {
        // SAFETY: takes nothing; the result is ours.
        Self { api, raw: unsafe { (api.new_buffer)() } }
    }

    fn to_vec(&self) -> Vec<u8> {
        // SAFETY: the buffer is alive, and is not written any more.
        unsafe { bytes_of(&*self.raw) }.to_vec()
    }
}

impl Drop for MessageBuffer {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after.
        unsafe { (self.api.delete_buffer)(self.raw) }
    }
}
