//! The runtime of an installed wheel: loads models through its library.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_void};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use servable_codec::example::features::Missing;
use servable_model::error::{Code, Result, ServingError, expect_memory};
use servable_model::signature::{DEFAULT_SIGNATURE, Signature};
use servable_model::tensor::{ALIGNMENT, AlignedBytes};
use servable_native::OpenError;
use servable_tabular::{CLASSIFICATION, Heads, Names, REGRESSION, heads_of};

use crate::api::{Api, CPU, RawEnvironment, RawEnvironmentOption, RawOptions};
use crate::file::{ModelFile, Subgraph};
use crate::interpreter::{Interpreter, LoadedFile};
use crate::model::Model;
use crate::pool::Pool;
use crate::signatures::{Naming, Signatures};

/// The `LiteRT` of an installed wheel.
///
/// The library is never unloaded.
pub struct Runtime {
    api: &'static Api,
    environment: NonNull<RawEnvironment>,
}

// SAFETY: the environment is not changed after it was made. Models may be compiled concurrently in it.
unsafe impl Send for Runtime {}
// SAFETY: as above.
unsafe impl Sync for Runtime {}

/// The options to load and run a model.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where signatures and their names come from.
    pub naming: Naming,
    /// The number of concurrent runs.
    pub interpreters: usize,
    /// The number of threads that a run uses.
    pub threads: usize,
    /// The size of batches beyond which they are split into several runs, unless the model is for several rows; `None` to
    /// run them as they are.
    pub rows_per_run: Option<usize>,
    /// The maximum duration of a run; `None` for no limit.
    pub longest_run: Option<Duration>,
    /// What is known about features and classes beside the file, for [`Naming::Model`].
    pub names: Names,
}

/// A loaded model, with its description.
pub struct LoadedModel {
    /// Its signatures by name.
    pub signatures: BTreeMap<String, Signature>,
    /// A serialized `tensorflow.serving.SignatureDefMap`.
    pub signature_defs: Bytes,
    /// The heads that answer examples; `None` if there are none, and for [`Naming::TensorFlowServing`].
    pub heads: Option<Heads>,
    /// The model.
    pub model: Model,
}

impl Runtime {
    /// Loads the library at this path.
    ///
    /// # Errors
    ///
    /// An [`OpenError`] that names the file or the function that is missing.
    pub fn open(library: &Path) -> Result<Arc<Self>, OpenError> {
        let api = Api::open(library)?;
        let options = RawEnvironmentOption::OF_A_SERVER;
        let mut environment = ptr::null_mut();
        // SAFETY: the array has that many options. The result is ours, and is never destroyed.
        let status = unsafe { (api.create_environment)(options.len() as i32, options.as_ptr(), &raw mut environment) };
        match NonNull::new(environment) {
            Some(environment) if status == 0 => Ok(Arc::new(Self { api, environment })),
            _ => Err(OpenError::Library {
                path: library.to_owned(),
                reason: format!("it makes no environment: status {status}"),
            }),
        }
    }

    /// Loads a model file.
    ///
    /// Blocks until the model is compiled. May be called from several threads concurrently.
    ///
    /// # Errors
    ///
    /// `NOT_FOUND` if the file cannot be read. `INVALID_ARGUMENT` if it is damaged, with the text of TensorFlow Serving.
    /// `UNIMPLEMENTED` if it has operators that the runtime lacks; the text names them.
    pub fn load(&self, path: &Path, options: &LoadOptions) -> Result<LoadedModel> {
        let bytes = read(path)?;
        let file = parse(&bytes)?;
        let mut signatures = Signatures::of(&file, options.naming)?;
        let loaded = Arc::new(self.load_file(bytes)?);
        let first = self.compile(&loaded, &signatures, options, &file)?;
        let mut interpreters = vec![first];
        allocate(&mut interpreters[0], &mut signatures, options.naming, &file)?;
        while interpreters.len() < options.interpreters {
            interpreters.push(self.compile(&loaded, &signatures, options, &file)?);
        }
        let heads = match options.naming {
            Naming::Model => heads(&signatures.by_name, &options.names),
            Naming::TensorFlowServing => None,
        };
        Ok(LoadedModel {
            signatures: signatures.by_name.clone(),
            signature_defs: signatures.definitions(),
            heads,
            model: Model {
                signatures,
                interpreters: interpreters.len(),
                has_state: file.has_state,
                pool: Pool::new(interpreters),
                rows_per_run: options.rows_per_run.map(|rows| rows_of(&file.subgraphs[0]).unwrap_or(rows)),
                longest_run: options.longest_run,
                _file: loaded,
            },
        })
    }

    fn load_file(&self, bytes: AlignedBytes) -> Result<LoadedFile> {
        let mut raw = ptr::null_mut();
        // SAFETY: the memory has that many bytes, and lives as long as the model.
        let status = unsafe {
            (self.api.create_model_from_buffer)(
                self.environment.as_ptr(),
                bytes.as_ptr().cast(),
                bytes.len(),
                &raw mut raw,
            )
        };
        match NonNull::new(raw) {
            Some(raw) if status == 0 => Ok(LoadedFile { api: self.api, raw, _bytes: bytes }),
            _ => Err(unbuildable(&format!("LiteRT reports status {status}"))),
        }
    }

    fn compile(
        &self,
        file: &Arc<LoadedFile>,
        signatures: &Signatures,
        options: &LoadOptions,
        contents: &ModelFile,
    ) -> Result<Interpreter> {
        let compilation = CompilationOptions::new(self.api, options.threads)?;
        let mut raw = ptr::null_mut();
        // SAFETY: all arguments are alive. The runtime keeps no pointer to the options.
        let status = unsafe {
            (self.api.create_compiled_model)(
                self.environment.as_ptr(),
                file.raw.as_ptr(),
                compilation.raw.as_ptr(),
                &raw mut raw,
            )
        };
        match NonNull::new(raw) {
            Some(raw) if status == 0 => {
                // SAFETY: it was just compiled from this file, and is ours.
                Ok(unsafe { Interpreter::from_raw(self.api, raw, Arc::clone(file), signatures.graphs.len()) })
            }
            _ => Err(ServingError::internal(format!(
                "LiteRT cannot compile the model: status {status}{}",
                custom_operators(contents)
            ))),
        }
    }
}

/// Allocates memory for each graph with its initial shapes, which fails if operators are missing; and finds graphs whose
/// batch has size 1 in the file, but may have any.
fn allocate(
    interpreter: &mut Interpreter,
    signatures: &mut Signatures,
    naming: Naming,
    file: &ModelFile,
) -> Result<()> {
    for position in 0..signatures.graphs.len() {
        let graph = &signatures.graphs[position];
        let shapes = || graph.inputs.iter().map(|port| port.initial_shape.as_slice());
        if let Err(failure) = interpreter.resize(position, graph, shapes()) {
            if ["unresolved custom op", "Select TensorFlow op", "Regular TensorFlow ops"]
                .iter()
                .any(|text| failure.messages.contains(text))
            {
                let text = format!("LiteRT lacks operators of the model{}", custom_operators(file));
                return Err(ServingError::unimplemented(text));
            }
            // A graph may need other sizes than those that stand for free dimensions.
            let has_free_sizes = graph.inputs.iter().any(|port| port.shape != port.initial_shape);
            if naming == Naming::Model && has_free_sizes {
                continue;
            }
            return Err(failure.into_error("Failed to allocate tensors"));
        }
        let is_one = |size: Option<&i64>| size == Some(&1);
        let has_batch_of_one = !graph.inputs.is_empty()
            && graph.inputs.iter().chain(&graph.outputs).all(|port| is_one(port.shape.first()));
        if naming == Naming::Model && has_batch_of_one {
            let twice: Vec<Vec<i64>> = shapes().map(|shape| [&[2], &shape[1..]].concat()).collect();
            let resized = interpreter.resize(position, graph, twice.iter().map(Vec::as_slice));
            let is_free = resized.is_ok_and(|outputs| outputs.iter().all(|shape| shape.first() == Some(&2)));
            if is_free {
                signatures.free_batch(position);
            }
        }
    }
    Ok(())
}

/// The heads of the default signature, unless the model has signatures of their names.
fn heads(signatures: &BTreeMap<String, Signature>, names: &Names) -> Option<Heads> {
    if [CLASSIFICATION, REGRESSION].iter().any(|name| signatures.contains_key(*name)) {
        return None;
    }
    heads_of(signatures.get(DEFAULT_SIGNATURE)?, names, &Missing::Refused)
}

/// The number of rows of a run, if a graph is for several rows. TensorFlow Serving looks at graphs with one input.
fn rows_of(graph: &Subgraph) -> Option<usize> {
    let [input] = graph.inputs[..] else { return None };
    let rows = *graph.tensors[input].shape.first()?;
    usize::try_from(rows).ok().filter(|&rows| rows > 1)
}

/// The size of the tensors of all graphs of a model file in bytes, with the shapes in the file and without constants. A
/// tensor shares its memory with those that are needed at other times.
///
/// # Errors
///
/// `NOT_FOUND` if the file cannot be read, `INVALID_ARGUMENT` if it is damaged.
pub fn tensor_bytes(path: &Path) -> Result<u64> {
    let bytes = read(path)?;
    let file = parse(&bytes)?;
    Ok(file.subgraphs.iter().map(|graph| graph.tensor_bytes).fold(0, u64::saturating_add))
}

fn parse(bytes: &[u8]) -> Result<ModelFile> {
    ModelFile::parse(bytes).map_err(|damaged| unbuildable(&format!("the file {}", damaged.0)))
}

/// The names of custom operators of a model, for messages.
fn custom_operators(file: &ModelFile) -> String {
    let names: Vec<&str> = file.custom_operators.iter().map(String::as_str).collect();
    let mut text = if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) };
    if names.iter().any(|name| name.starts_with("Flex")) {
        text += "; those with Flex are TensorFlow's, so serve the SavedModel that the model was converted from, or \
            convert it with TFLITE_BUILTINS only";
    }
    text
}

/// The error for a file that is no model, with the text of TensorFlow Serving.
fn unbuildable(reason: &str) -> ServingError {
    ServingError::invalid_argument(format!("Cannot build FlatBufferModel from buffer.: {reason}"))
}

/// The contents of a file. A mapped file would end the process if it became shorter.
fn read(path: &Path) -> Result<AlignedBytes> {
    let failed = |error: std::io::Error| {
        let code = match error.kind() {
            ErrorKind::PermissionDenied => Code::PermissionDenied,
            _ => Code::NotFound,
        };
        ServingError::new(code, format!("{}: {error}", path.display()))
    };
    let mut file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len() as usize;
    expect_memory(size)?;
    let mut bytes = AlignedBytes::with_capacity(ALIGNMENT, size);
    bytes.resize(size, 0);
    file.read_exact(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Owned `LiteRtOptions`.
struct CompilationOptions {
    api: &'static Api,
    raw: NonNull<RawOptions>,
}

impl CompilationOptions {
    fn new(api: &'static Api, threads: usize) -> Result<Self> {
        let failed = |status| ServingError::internal(format!("LiteRT takes no options: status {status}"));
        let mut raw = ptr::null_mut();
        // SAFETY: the result is ours.
        let status = unsafe { (api.create_options)(&raw mut raw) };
        let raw = NonNull::new(raw).filter(|_| status == 0).ok_or_else(|| failed(status))?;
        let options = Self { api, raw };
        // SAFETY: the options are alive.
        let status = unsafe { (api.set_hardware_accelerators)(raw.as_ptr(), CPU) };
        if status != 0 {
            return Err(failed(status));
        }
        options.add(c"xnnpack", &format!("num_threads = {threads}\n"))?;
        // Errors are collected in the compiled model.
        options.add(c"runtime_options_string", "error_reporter_mode = 2\n")?;
        Ok(options)
    }

    /// Adds options of one part of the runtime, as TOML.
    fn add(&self, part: &CStr, text: &str) -> Result<()> {
        let text = CString::new(text).expect("options without a NUL").into_raw();
        let mut opaque = ptr::null_mut();
        // SAFETY: the runtime copies the name, and frees the text with the function.
        let mut status =
            unsafe { (self.api.create_opaque_options)(part.as_ptr(), text.cast(), Some(free_text), &raw mut opaque) };
        if status == 0 {
            // SAFETY: both are alive. The options take ownership of the part.
            status = unsafe { (self.api.add_opaque_options)(self.raw.as_ptr(), opaque) };
        }
        if status == 0 {
            return Ok(());
        }
        Err(ServingError::internal(format!("LiteRT takes no options of {}: status {status}", part.to_string_lossy())))
    }
}

impl Drop for CompilationOptions {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after.
        unsafe { (self.api.destroy_options)(self.raw.as_ptr()) }
    }
}

/// # Safety
///
/// `text` must come from [`CString::into_raw`], and must not be used afterwards.
unsafe extern "C" fn free_text(text: *mut c_void) {
    // SAFETY: guaranteed by the caller.
    drop(unsafe { CString::from_raw(text.cast()) });
}
