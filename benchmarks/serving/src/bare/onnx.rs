//! `Run` of the `OrtApi`, with an input that is made once. The runtime allocates the outputs.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

use servable_native::{Library, functions};

use super::{Calls, Result, batch};

type Object = *mut c_void;
/// A pointer to a function of any type.
type Entry = *const c_void;

#[repr(C)]
struct Base {
    get_api: unsafe extern "C" fn(u32) -> *const Entry,
}

functions! {
    /// The only function that leads to the others.
    struct Exports {
        base = "OrtGetApiBase" () -> *const Base;
    }
}

/// A version of the table of functions that has all that are used here.
const VERSION: u32 = 15;

/// The entries of `struct OrtApi` by position.
macro_rules! entries {
    ($($position:literal $field:ident ($($argument:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        struct Api { $($field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)* }

        impl Api {
            /// # Safety
            ///
            /// `table` must be an `OrtApi` of this version or later.
            unsafe fn read(table: *const Entry) -> Self {
                Self {$(
                    // SAFETY: the entry at this position has this type.
                    $field: unsafe { std::mem::transmute::<
                        Entry,
                        unsafe extern "C" fn($($argument),*) $(-> $result)?,
                    >(*table.add($position)) },
                )*}
            }
        }
    };
}

entries! {
    2 message(Object) -> *const c_char;
    3 create_env(c_int, *const c_char, *mut Object) -> Object;
    7 create_session(Object, *const c_char, Object, *mut Object) -> Object;
    9 run(
        Object, Object, *const *const c_char, *const Object, usize, *const *const c_char, usize, *mut Object,
    ) -> Object;
    10 create_session_options(*mut Object) -> Object;
    24 set_intra_op_threads(Object, c_int) -> Object;
    31 output_count(Object, *mut usize) -> Object;
    36 input_name(Object, usize, Object, *mut *const c_char) -> Object;
    37 output_name(Object, usize, Object, *mut *const c_char) -> Object;
    49 create_tensor(Object, *mut c_void, usize, *const i64, usize, c_int, *mut Object) -> Object;
    51 tensor_data(Object, *mut *const c_void) -> Object;
    69 create_memory_info(c_int, c_int, *mut Object) -> Object;
    78 allocator(*mut Object) -> Object;
    96 release_value(Object);
}

/// `ORT_LOGGING_LEVEL_ERROR`, `ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT`.
const ERRORS: c_int = 3;
const FLOAT: c_int = 1;

impl Api {
    /// The error of a status that is not null.
    fn check(&self, status: Object) -> Result<()> {
        if status.is_null() {
            return Ok(());
        }
        // SAFETY: the message ends in a NUL, and belongs to the status, which is not freed.
        Err(unsafe { CStr::from_ptr((self.message)(status)) }.to_string_lossy().into())
    }
}

pub(super) struct Model {
    api: Api,
    session: Object,
    memory: Object,
    input: *const c_char,
    outputs: Vec<*const c_char>,
    row: Vec<f32>,
}

// SAFETY: `Run` may be called from several threads; nothing else of the session is used by them.
unsafe impl Sync for Model {}

impl Model {
    /// Nothing of it is ever freed.
    pub(super) fn load(library: &Path, model: &CStr, row: &[f32], threads: usize) -> Result<Self> {
        let [mut env, mut options, mut session, mut memory, mut allocator] = [ptr::null_mut(); 5];
        // SAFETY: the library declares the function and the table. All objects are alive, and texts end in a NUL.
        unsafe {
            let base = (Exports::look_up(&Library::open(library)?)?.base)();
            let table = ((*base).get_api)(VERSION);
            if table.is_null() {
                return Err("ONNX Runtime is too old".into());
            }
            let api = Api::read(table);
            api.check((api.create_env)(ERRORS, c"bare".as_ptr(), &raw mut env))?;
            api.check((api.create_session_options)(&raw mut options))?;
            api.check((api.set_intra_op_threads)(options, threads as c_int))?;
            api.check((api.create_session)(env, model.as_ptr(), options, &raw mut session))?;
            api.check((api.create_memory_info)(0, 0, &raw mut memory))?;
            api.check((api.allocator)(&raw mut allocator))?;
            let (mut input, mut count) = (ptr::null(), 0);
            api.check((api.input_name)(session, 0, allocator, &raw mut input))?;
            api.check((api.output_count)(session, &raw mut count))?;
            let mut outputs = vec![ptr::null(); count];
            for (position, name) in outputs.iter_mut().enumerate() {
                api.check((api.output_name)(session, position, allocator, name))?;
            }
            Ok(Self { api, session, memory, input, outputs, row: row.to_vec() })
        }
    }
}

impl super::Model for Model {
    fn calls(&self, rows: usize) -> Result<Box<dyn Calls + '_>> {
        let mut values = batch(&self.row, rows);
        let (mut input, shape) = (ptr::null_mut(), [rows as i64, self.row.len() as i64]);
        // SAFETY: the memory has that shape, and lives as long as the tensor.
        self.api.check(unsafe {
            (self.api.create_tensor)(
                self.memory,
                values.as_mut_ptr().cast(),
                size_of_val(&*values),
                shape.as_ptr(),
                shape.len(),
                FLOAT,
                &raw mut input,
            )
        })?;
        let outputs = vec![ptr::null_mut(); self.outputs.len()];
        Ok(Box::new(Batch { model: self, input, outputs, _values: values }))
    }
}

struct Batch<'a> {
    model: &'a Model,
    input: Object,
    /// Of the last run.
    outputs: Vec<Object>,
    _values: Vec<f32>,
}

impl Batch<'_> {
    fn release_outputs(&mut self) {
        for output in &mut self.outputs {
            // SAFETY: ours, and not used after. Null is accepted.
            unsafe { (self.model.api.release_value)(std::mem::replace(output, ptr::null_mut())) };
        }
    }
}

impl Calls for Batch<'_> {
    fn run(&mut self) -> Result<()> {
        self.release_outputs();
        let model = self.model;
        // SAFETY: names end in a NUL, values are alive, and the arrays have these lengths.
        model.api.check(unsafe {
            (model.api.run)(
                model.session,
                ptr::null_mut(),
                &raw const model.input,
                &raw const self.input,
                1,
                model.outputs.as_ptr(),
                model.outputs.len(),
                self.outputs.as_mut_ptr(),
            )
        })
    }

    /// The last output, which is floats.
    fn answer(&self, numbers: usize) -> Vec<f64> {
        let mut data = ptr::null();
        // SAFETY: the tensor is alive, and the caller asks for as many numbers as a row has.
        unsafe {
            let last = self.outputs.last().copied().unwrap_or(ptr::null_mut());
            if last.is_null() || self.model.api.check((self.model.api.tensor_data)(last, &raw mut data)).is_err() {
                return Vec::new();
            }
            std::slice::from_raw_parts(data.cast::<f32>(), numbers).iter().map(|&number| number.into()).collect()
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.release_outputs();
        // SAFETY: ours, and not used after.
        unsafe { (self.model.api.release_value)(self.input) };
    }
}
