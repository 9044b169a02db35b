//! The runtime of one installed wheel: opens its library, and loads models with it.

use std::ffi::{CStr, CString, c_char, c_int};
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use servable_model::error::{Code, Result, ServingError};
use servable_native::OpenError;

use crate::api::{Api, RawCudaOptions, RawEnv, RawSessionOptions, Status};
use crate::deadline_timer::DeadlineTimer;
use crate::model_file::ModelFile;
use crate::session::Session;
use crate::status::with_version;
use crate::threads::{ThreadSpawner, join_thread, start_thread};
use crate::value::Memory;

/// The lowest severity of messages that the runtime logs: errors.
const LOG_SEVERITY: c_int = 3;

/// The arguments of `CreateCpuMemoryInfo` for memory that is not of an arena: `OrtDeviceAllocator`, `OrtMemTypeDefault`.
const DEVICE_ALLOCATOR: c_int = 0;
const MEM_TYPE_DEFAULT: c_int = 0;

/// The ONNX Runtime of an installed wheel.
///
/// The library is never unloaded. Opening the same library twice is cheap.
pub struct Runtime {
    api: &'static Api,
    environment: *mut RawEnv,
    memory: Memory,
    timer: &'static DeadlineTimer,
    spawner: &'static ThreadSpawner,
}

// SAFETY: the environment is not changed after it was made, and may be used by any thread.
unsafe impl Send for Runtime {}
// SAFETY: as above.
unsafe impl Sync for Runtime {}

/// The options to load and run a model.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The threads that share the operations of one run.
    pub threads: Threads,
    /// The devices to run on, the preferred first.
    pub providers: Vec<Provider>,
    /// How the graph is optimised.
    pub optimization: Optimization,
    /// Whether freed memory is kept for the next run.
    pub keeps_memory: bool,
    /// The maximum duration of a run; `None` for no limit.
    pub longest_run: Option<Duration>,
}

/// The threads that share the operations of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The calling thread only. Requests run in parallel on the threads of the server.
    Caller,
    /// The calling thread and the pool that all sessions share, with one thread for each CPU.
    Shared,
    /// The calling thread, and a pool of the session. The number includes the calling thread.
    Own(NonZero<u16>),
}

/// A device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// The processor. It also runs the operations that other devices lack.
    Cpu,
    /// A GPU of NVIDIA.
    Cuda {
        /// Its number.
        device: u16,
        /// The maximum size of its arena in bytes; `None` for no limit.
        memory_limit: Option<u64>,
    },
}

/// How the graph is optimised, with the numbers of `GraphOptimizationLevel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Optimization {
    /// Not at all.
    None = 0,
    /// By rewrites that are independent of devices.
    Basic = 1,
    /// Also by fused operations.
    Extended = 2,
    /// Also by layouts of memory.
    All = 99,
}

impl Runtime {
    /// Loads the library, and starts the threads that all models share.
    ///
    /// # Errors
    ///
    /// An [`OpenError`] that names the file or the function that is missing.
    pub fn open(library: &Path) -> Result<Arc<Self>, OpenError> {
        let api = Api::open(library)?;
        let failed = |reason| OpenError::Library { path: library.to_owned(), reason };
        let (timer, spawner) = (DeadlineTimer::start(api).map_err(failed)?, ThreadSpawner::start().map_err(failed)?);
        let environment = Environment::new(api).map_err(|error| failed(error.to_string()))?;
        let memory = default_memory(api).map_err(|error| failed(error.to_string()))?;
        Ok(Arc::new(Self { api, environment: environment.keep(), memory, timer, spawner }))
    }

    /// The version of ONNX Runtime, such as `1.23.2`.
    pub fn version(&self) -> &str {
        self.api.version()
    }

    /// Loads a model: reads the file and those with external data, and optimises the graph.
    ///
    /// Blocks until the model is loaded. May be called from several threads concurrently.
    ///
    /// # Errors
    ///
    /// The error of the runtime with its text; `UNIMPLEMENTED` for inputs and outputs that clients cannot send or
    /// receive; `FAILED_PRECONDITION` if a device is not available.
    pub fn load(&self, file: &Path, options: &LoadOptions) -> Result<Session> {
        let api = self.api;
        let nul = |_| ServingError::invalid_argument("a path has a NUL byte in it");
        let path = CString::new(file.as_os_str().as_bytes()).map_err(nul)?;
        let session_options = SessionOptions::new(api)?;
        session_options.configure(options, self.spawner)?;
        // Devices after the processor would get no operation.
        for provider in options.providers.iter().take_while(|provider| **provider != Provider::Cpu) {
            if let Provider::Cuda { device, memory_limit } = provider {
                session_options.append_cuda(*device, *memory_limit).map_err(|error| self.no_cuda(&error))?;
            }
        }
        let mut raw = ptr::null_mut();
        // SAFETY: environment and options are alive, and the path ends in a NUL. The session is ours.
        let status =
            unsafe { (api.create_session)(self.environment, path.as_ptr(), session_options.raw, &raw mut raw) };
        api.check(status).map_err(|error| with_version(error, self.version()))?;
        let raw = NonNull::new(raw).ok_or_else(|| ServingError::internal("the runtime returned no session"))?;
        // The runtime has read the file. If only it can, the worst is assumed of the model.
        let read = ModelFile::read(file);
        let read = read.unwrap_or_else(|_| ModelFile { has_loops: true, ..ModelFile::default() });
        // SAFETY: the session was just made.
        unsafe { Session::from_raw(api, raw, self.memory, self.timer, read, options.longest_run) }
    }

    /// The error for a GPU that cannot be used, with the package that is missing.
    fn no_cuda(&self, error: &ServingError) -> ServingError {
        let providers = self.providers().unwrap_or_default();
        let has_cuda = providers.iter().any(|name| name == "CUDAExecutionProvider");
        // The rest is about the source of the runtime, and names the host.
        let reason = error.text();
        let reason = reason.split_once(" ; GPU=").map_or(&*reason, |(reason, _)| reason);
        let advice = if !has_cuda {
            "; install onnxruntime-gpu in place of onnxruntime"
        } else if reason.contains("Failed to load library") {
            "; install its libraries with `pip install 'onnxruntime-gpu[cuda,cudnn]'`"
        } else {
            ""
        };
        let found = format!("ONNX Runtime {} has {}", self.version(), providers.join(", "));
        let text = format!("provider \"cuda\" cannot be used: {reason}; {found}{advice}");
        ServingError::new(Code::FailedPrecondition, text)
    }

    /// The names of the devices that this library was built for.
    ///
    /// # Errors
    ///
    /// The error of the runtime.
    pub fn providers(&self) -> Result<Vec<String>> {
        let (mut names, mut count) = (ptr::null_mut(), 0);
        // SAFETY: the results are ours: an array of that many texts that end in a NUL. They are freed once copied.
        unsafe {
            self.api.check((self.api.get_available_providers)(&raw mut names, &raw mut count))?;
            let name = |index| CStr::from_ptr(*names.add(index)).to_string_lossy().into_owned();
            let copied = (0..count as usize).map(name).collect();
            self.api.check((self.api.release_available_providers)(names, count))?;
            Ok(copied)
        }
    }
}

/// Describes the memory of this process to the runtime. Both objects are kept for the life of the process.
fn default_memory(api: &Api) -> Result<Memory> {
    let (mut info, mut allocator) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: the first result is ours, the second is static.
    unsafe {
        api.check((api.create_cpu_memory_info)(DEVICE_ALLOCATOR, MEM_TYPE_DEFAULT, &raw mut info))?;
        api.check((api.get_allocator_with_default_options)(&raw mut allocator))?;
    }
    Ok(Memory { info, allocator })
}

/// An owned `OrtEnv`: the log, and the pool of threads that sessions can share. A process has one.
struct Environment {
    api: &'static Api,
    raw: *mut RawEnv,
}

impl Environment {
    fn new(api: &'static Api) -> Result<Self> {
        let cpus = std::thread::available_parallelism().map_or(1, NonZero::get).min(c_int::MAX as usize);
        let mut options = ptr::null_mut();
        let mut environment = Self { api, raw: ptr::null_mut() };
        // SAFETY: the options are ours, and freed once they were used. The environment is ours.
        unsafe {
            api.check((api.create_threading_options)(&raw mut options))?;
            let mut create = || {
                api.check((api.set_global_intra_op_num_threads)(options, cpus as c_int))?;
                api.check((api.set_global_inter_op_num_threads)(options, 1))?;
                // Threads that spin take the CPU from those that serve requests.
                api.check((api.set_global_spin_control)(options, 0))?;
                let name = c"servable".as_ptr();
                api.check((api.create_env_with_global_thread_pools)(
                    LOG_SEVERITY,
                    name,
                    options,
                    &raw mut environment.raw,
                ))?;
                api.check((api.disable_telemetry_events)(environment.raw))
            };
            let created = create();
            (api.release_threading_options)(options);
            created?;
        }
        Ok(environment)
    }

    /// Keeps it for the life of the process: sessions refer to it.
    fn keep(self) -> *mut RawEnv {
        let raw = self.raw;
        std::mem::forget(self);
        raw
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after. Null is accepted.
        unsafe { (self.api.release_env)(self.raw) }
    }
}

/// An owned `OrtSessionOptions`.
struct SessionOptions {
    api: &'static Api,
    raw: *mut RawSessionOptions,
}

impl SessionOptions {
    fn new(api: &'static Api) -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: the result is ours.
        api.check(unsafe { (api.create_session_options)(&raw mut raw) })?;
        Ok(Self { api, raw })
    }

    /// Sets everything but devices.
    fn configure(&self, options: &LoadOptions, spawner: &'static ThreadSpawner) -> Result<()> {
        let api = self.api;
        // SAFETY: the options are alive, texts end in a NUL, and the functions have the types that the runtime calls.
        unsafe {
            api.check((api.set_session_graph_optimization_level)(self.raw, options.optimization as c_int))?;
            api.check((api.set_inter_op_num_threads)(self.raw, 1))?;
            // The runtime would keep a plan for each combination of input sizes that clients ever send.
            api.check((api.disable_mem_pattern)(self.raw))?;
            if !options.keeps_memory {
                api.check((api.disable_cpu_mem_arena)(self.raw))?;
            }
            match options.threads {
                Threads::Caller => api.check((api.set_intra_op_num_threads)(self.raw, 1))?,
                Threads::Shared => api.check((api.disable_per_session_threads)(self.raw))?,
                Threads::Own(number) => {
                    api.check((api.set_intra_op_num_threads)(self.raw, c_int::from(number.get())))?;
                    self.set_entry(c"session.intra_op.allow_spinning", c"0")?;
                    let argument = ptr::from_ref(spawner).cast_mut().cast();
                    api.check((api.session_options_set_custom_thread_creation_options)(self.raw, argument))?;
                    api.check((api.session_options_set_custom_create_thread_fn)(self.raw, start_thread))?;
                    api.check((api.session_options_set_custom_join_thread_fn)(self.raw, join_thread))?;
                }
            }
        }
        Ok(())
    }

    fn set_entry(&self, key: &CStr, value: &CStr) -> Result<()> {
        // SAFETY: the options are alive, and both texts end in a NUL.
        self.api.check(unsafe { (self.api.add_session_config_entry)(self.raw, key.as_ptr(), value.as_ptr()) })
    }

    fn append_cuda(&self, device: u16, memory_limit: Option<u64>) -> Result<()> {
        let options = CudaOptions::new(self.api)?;
        let device = CString::new(device.to_string()).unwrap_or_default();
        options.set(c"device_id", &device)?;
        if let Some(limit) = memory_limit {
            options.set(c"gpu_mem_limit", &CString::new(limit.to_string()).unwrap_or_default())?;
        }
        // SAFETY: both options are alive; the runtime copies those of the device.
        self.api.check(unsafe { (self.api.session_options_append_execution_provider_cuda_v2)(self.raw, options.raw) })
    }
}

impl Drop for SessionOptions {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after. Sessions have copied them.
        unsafe { (self.api.release_session_options)(self.raw) }
    }
}

/// An owned `OrtCUDAProviderOptionsV2`.
struct CudaOptions {
    api: &'static Api,
    raw: *mut RawCudaOptions,
}

impl CudaOptions {
    fn new(api: &'static Api) -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: the result is ours.
        api.check(unsafe { (api.create_cuda_provider_options)(&raw mut raw) })?;
        Ok(Self { api, raw })
    }

    fn set(&self, key: &CStr, value: &CStr) -> Result<()> {
        let (keys, values): ([*const c_char; 1], [*const c_char; 1]) = ([key.as_ptr()], [value.as_ptr()]);
        // SAFETY: the options are alive, and both arrays have one text that ends in a NUL.
        let status: Status =
            unsafe { (self.api.update_cuda_provider_options)(self.raw, keys.as_ptr(), values.as_ptr(), 1) };
        self.api.check(status)
    }
}

impl Drop for CudaOptions {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after. Null is accepted.
        unsafe { (self.api.release_cuda_provider_options)(self.raw) }
    }
}
