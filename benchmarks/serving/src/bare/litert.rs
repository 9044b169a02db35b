//! `LiteRtRunCompiledModel`, with tensor buffers that are made once.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

use servable_native::{Library, functions};

use super::{Calls, Result, batch, expect_success};

type Object = *mut c_void;

const MAX_RANK: usize = 8;
/// `kLiteRtElementTypeFloat32`, `kLiteRtHwAcceleratorCpu`.
const FLOAT: c_int = 1;
const CPU: c_int = 1;

/// `LiteRtLayout`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Layout {
    rank: u32,
    dimensions: [i32; MAX_RANK],
    strides: [u32; MAX_RANK],
}

/// `LiteRtRankedTensorType`.
#[repr(C)]
struct TensorType {
    element_type: c_int,
    layout: Layout,
}

/// `LiteRtEnvOption`, with a number.
#[repr(C)]
struct EnvironmentOption {
    tag: c_int,
    value_type: c_int,
    padding: c_int,
    value: i64,
}

type Free = Option<unsafe extern "C" fn(*mut c_void)>;

functions! {
    /// The functions of `litert/c/*.h`.
    struct Api {
        create_environment = "LiteRtCreateEnvironment" (c_int, *const EnvironmentOption, *mut Object) -> c_int;
        create_model = "LiteRtCreateModelFromFile" (Object, *const c_char, *mut Object) -> c_int;
        create_options = "LiteRtCreateOptions" (*mut Object) -> c_int;
        set_accelerators = "LiteRtSetOptionsHardwareAccelerators" (Object, c_int) -> c_int;
        create_part = "LiteRtCreateOpaqueOptions" (*const c_char, *mut c_void, Free, *mut Object) -> c_int;
        add_part = "LiteRtAddOpaqueOptions" (Object, Object) -> c_int;
        compile = "LiteRtCreateCompiledModel" (Object, Object, Object, *mut Object) -> c_int;
        destroy_compiled = "LiteRtDestroyCompiledModel" (Object);
        resize = "LiteRtCompiledModelResizeInputTensorNonStrict" (
            Object, usize, usize, *const c_int, usize,
        ) -> c_int;
        output_layouts = "LiteRtGetCompiledModelOutputTensorLayouts" (
            Object, usize, usize, *mut Layout, bool,
        ) -> c_int;
        create_buffer = "LiteRtCreateTensorBufferFromHostMemory" (
            *const TensorType, *mut c_void, usize, Free, *mut Object,
        ) -> c_int;
        destroy_buffer = "LiteRtDestroyTensorBuffer" (Object);
        run = "LiteRtRunCompiledModel" (Object, usize, usize, *const Object, usize, *const Object) -> c_int;
    }
}

pub(super) struct Model {
    api: Api,
    environment: Object,
    model: Object,
    threads: usize,
    row: Vec<f32>,
}

// SAFETY: the environment and the model are only read after the load.
unsafe impl Sync for Model {}

impl Model {
    /// Nothing of it is ever freed.
    pub(super) fn load(library: &Path, model: &CStr, row: &[f32], threads: usize) -> Result<Self> {
        let (mut environment, mut loaded) = (ptr::null_mut(), ptr::null_mut());
        let number = |tag, value| EnvironmentOption { tag, value_type: 2, padding: 0, value };
        // Only the CPU, and no log.
        let options = [number(24, CPU.into()), number(25, 4)];
        // SAFETY: the library declares these functions; the path ends in a NUL.
        unsafe {
            let api = Api::look_up(&Library::open(library)?)?;
            let status = (api.create_environment)(options.len() as c_int, options.as_ptr(), &raw mut environment);
            expect_success("LiteRtCreateEnvironment", status)?;
            let status = (api.create_model)(environment, model.as_ptr(), &raw mut loaded);
            expect_success("LiteRtCreateModelFromFile", status)?;
            Ok(Self { api, environment, model: loaded, threads, row: row.to_vec() })
        }
    }

    /// Compiles the model, which one thread at a time may run.
    fn compile(&self) -> Result<Object> {
        let api = &self.api;
        let [mut options, mut part, mut compiled] = [ptr::null_mut(); 3];
        let text = CString::new(format!("num_threads = {}\n", self.threads))?.into_raw();
        // SAFETY: all objects are alive; the runtime frees the text with the function.
        unsafe {
            expect_success("LiteRtCreateOptions", (api.create_options)(&raw mut options))?;
            expect_success("LiteRtSetOptionsHardwareAccelerators", (api.set_accelerators)(options, CPU))?;
            let status = (api.create_part)(c"xnnpack".as_ptr(), text.cast(), Some(free_text), &raw mut part);
            expect_success("LiteRtCreateOpaqueOptions", status)?;
            expect_success("LiteRtAddOpaqueOptions", (api.add_part)(options, part))?;
            let status = (api.compile)(self.environment, self.model, options, &raw mut compiled);
            expect_success("LiteRtCreateCompiledModel", status)?;
        }
        Ok(compiled)
    }

    /// Describes a matrix.
    fn buffer(&self, layout: Layout, memory: &mut [f32]) -> Result<Object> {
        let (tensor_type, mut buffer) = (TensorType { element_type: FLOAT, layout }, ptr::null_mut());
        // SAFETY: the memory has that many bytes, and outlives the buffer.
        let status = unsafe {
            (self.api.create_buffer)(
                &raw const tensor_type,
                memory.as_mut_ptr().cast(),
                size_of_val(memory),
                None,
                &raw mut buffer,
            )
        };
        expect_success("LiteRtCreateTensorBufferFromHostMemory", status)?;
        Ok(buffer)
    }
}

/// # Safety
///
/// `text` must come from [`CString::into_raw`], and must not be used afterwards.
unsafe extern "C" fn free_text(text: *mut c_void) {
    // SAFETY: guaranteed by the caller.
    drop(unsafe { CString::from_raw(text.cast()) });
}

impl super::Model for Model {
    fn calls(&self, rows: usize) -> Result<Box<dyn Calls + '_>> {
        let mut calls = Batch {
            model: self,
            compiled: self.compile()?,
            buffers: Vec::new(),
            input: Aligned::new(rows * self.row.len()),
            output: Aligned::new(0),
        };
        calls.input.values().copy_from_slice(&batch(&self.row, rows));
        let sizes = [rows as c_int, self.row.len() as c_int];
        let mut layout = Layout::default();
        // SAFETY: the array has that many sizes, and there is one output.
        unsafe {
            let status = (self.api.resize)(calls.compiled, 0, 0, sizes.as_ptr(), sizes.len());
            expect_success("LiteRtCompiledModelResizeInputTensorNonStrict", status)?;
            let status = (self.api.output_layouts)(calls.compiled, 0, 1, &raw mut layout, true);
            expect_success("LiteRtGetCompiledModelOutputTensorLayouts", status)?;
        }
        let rank = layout.rank as usize & (MAX_RANK * 16 - 1);
        calls.output =
            Aligned::new(layout.dimensions[..rank.min(MAX_RANK)].iter().map(|&size| size as usize).product());
        let mut matrix = Layout { rank: 2, ..Layout::default() };
        matrix.dimensions[..2].copy_from_slice(&sizes);
        calls.buffers.push(self.buffer(matrix, calls.input.values())?);
        layout.rank = rank as u32;
        calls.buffers.push(self.buffer(layout, calls.output.values())?);
        Ok(Box::new(calls))
    }
}

struct Batch<'a> {
    model: &'a Model,
    compiled: Object,
    /// Of the input and the output.
    buffers: Vec<Object>,
    input: Aligned,
    output: Aligned,
}

impl Calls for Batch<'_> {
    fn run(&mut self) -> Result<()> {
        // SAFETY: there are two buffers, whose memory is alive, with the shapes of the last resize.
        let status = unsafe {
            (self.model.api.run)(self.compiled, 0, 1, &raw const self.buffers[0], 1, &raw const self.buffers[1])
        };
        expect_success("LiteRtRunCompiledModel", status)
    }

    fn answer(&self, numbers: usize) -> Vec<f64> {
        self.output.memory[self.output.start..].iter().take(numbers).map(|&number| number.into()).collect()
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after.
        unsafe {
            (self.model.api.destroy_compiled)(self.compiled);
            self.buffers.iter().for_each(|&buffer| (self.model.api.destroy_buffer)(buffer));
        }
    }
}

/// Floats that begin at a multiple of 64 bytes, as the runtime demands, with room for reads behind them.
struct Aligned {
    memory: Vec<f32>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let memory = vec![0.0_f32; len + 32];
        let start = memory.as_ptr().align_offset(64);
        Self { memory, start, len }
    }

    fn values(&mut self) -> &mut [f32] {
        &mut self.memory[self.start..][..self.len]
    }
}
