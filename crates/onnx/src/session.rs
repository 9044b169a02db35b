//! One loaded model: runs it, and frees it when dropped.

use std::collections::HashMap;
use std::ffi::c_char;
use std::num::NonZero;
use std::ptr::{self, NonNull};
use std::time::{Duration, Instant};

use servable_codec::example::features::Missing;
use servable_model::call::timed_out;
use servable_model::error::{Result, ServingError};
use servable_model::executor::{Executor, RunOptions};
use servable_model::signature::{Signature, TensorSpec};
use servable_model::tensor::Tensor;
use servable_tabular::{Heads, Names, heads_of};

use crate::api::{Api, RawSession, RawValue};
use crate::deadline_timer::DeadlineTimer;
use crate::declared::{Declarations, Declared, Form};
use crate::model_file::ModelFile;
use crate::status::During;
use crate::value::{Input, Memory, RuntimeValue};

/// An ONNX Runtime session.
///
/// Any number of threads may run it concurrently. Dropping it frees its weights, and the memory of its arena.
///
/// A model computes outputs from inputs, and has no state that outlasts a run. So runs may be repeated.
pub struct Session {
    api: &'static Api,
    raw: NonNull<RawSession>,
    memory: Memory,
    timer: &'static DeadlineTimer,
    declarations: Declarations,
    /// The positions in `declarations`, by name.
    inputs: HashMap<Box<str>, usize>,
    outputs: HashMap<Box<str>, usize>,
    file: ModelFile,
    longest_run: Option<Duration>,
}

// SAFETY: `Run` may be called from several threads concurrently, and the session is not tied to the thread that made it.
unsafe impl Send for Session {}
// SAFETY: as above. Releasing takes the session by value.
unsafe impl Sync for Session {}

impl Session {
    /// Takes over a session.
    ///
    /// # Errors
    ///
    /// `UNIMPLEMENTED` for inputs and outputs that clients cannot send or receive.
    ///
    /// # Safety
    ///
    /// `raw` must be a session without another owner.
    pub(crate) unsafe fn from_raw(
        api: &'static Api,
        raw: NonNull<RawSession>,
        memory: Memory,
        timer: &'static DeadlineTimer,
        file: ModelFile,
        longest_run: Option<Duration>,
    ) -> Result<Self> {
        let (declarations, inputs, outputs) = (Declarations::default(), HashMap::new(), HashMap::new());
        // From here on, the session is freed on an error.
        let mut session = Self { api, raw, memory, timer, declarations, inputs, outputs, file, longest_run };
        // SAFETY: the session is alive.
        session.declarations = unsafe { Declarations::of(api, raw.as_ptr(), memory, &session.file) }?;
        session.file.defaults.clear();
        session.inputs = positions(&session.declarations.inputs);
        session.outputs = positions(&session.declarations.outputs);
        Ok(session)
    }

    /// The signature, with the names of the model.
    pub fn signature(&self) -> Signature {
        self.declarations.signature()
    }

    /// The heads that answer examples. The file may name classes, if `names` has none. `None` if there are no heads.
    pub fn heads(&self, mut names: Names) -> Option<Heads> {
        if let (true, 1, Some(labels)) =
            (names.classes.is_empty(), self.file.class_labels.len(), self.file.class_labels.first())
        {
            names.classes.clone_from(labels);
        }
        for output in &self.declarations.outputs {
            match output.form {
                Form::Tensor => {}
                Form::Maps { are_numbers: true } => names.classes.sort_by_key(|label| label.parse::<i64>().ok()),
                Form::Maps { are_numbers: false } => names.classes.sort(),
            }
        }
        heads_of(&self.signature(), &names, &Missing::NotANumber)
    }

    fn input(&self, spec: &TensorSpec) -> Result<&Declared> {
        declaration(&self.inputs, &self.declarations.inputs, spec)
    }

    fn output(&self, spec: &TensorSpec) -> Result<&Declared> {
        declaration(&self.outputs, &self.declarations.outputs, spec)
    }

    fn convert_output(&self, value: RuntimeValue, declared: &Declared, inputs: &[Input]) -> Result<Tensor> {
        let named = |error: ServingError| {
            let text = format!("output \"{}\": {}", declared.spec.alias, error.text());
            ServingError::new(error.code, text)
        };
        let tensor = match declared.form {
            Form::Tensor => value.into_tensor(declared.spec.dtype, inputs),
            Form::Maps { .. } => value.into_matrix(self.memory, declared.spec.dtype),
        };
        tensor.map_err(named)
    }
}

fn positions(all: &[Declared]) -> HashMap<Box<str>, usize> {
    all.iter().enumerate().map(|(position, declared)| (declared.spec.tensor_name.as_str().into(), position)).collect()
}

fn declaration<'a>(
    positions: &HashMap<Box<str>, usize>,
    all: &'a [Declared],
    spec: &TensorSpec,
) -> Result<&'a Declared> {
    let position = positions.get(spec.tensor_name.as_str()).copied();
    let unknown = || ServingError::invalid_argument(format!("the model has no tensor \"{}\"", spec.tensor_name));
    position.and_then(|position| all.get(position)).ok_or_else(unknown)
}

impl Executor for Session {
    fn runtime(&self) -> &'static str {
        "onnxruntime"
    }

    fn platform(&self) -> &'static str {
        "onnxruntime_onnx"
    }

    fn longest_run(&self) -> Option<Duration> {
        self.longest_run
    }

    fn is_repeatable(&self) -> bool {
        true
    }

    /// A loop may run for long, or without end. Dedicated threads keep it from delaying other models.
    fn own_threads(&self) -> Option<usize> {
        self.file.has_loops.then(|| std::thread::available_parallelism().map_or(1, NonZero::get).max(8))
    }

    fn check_inputs(&self, signature: &Signature, inputs: &[Tensor]) -> Result<()> {
        signature.inputs.iter().zip(inputs).try_for_each(|(spec, tensor)| self.input(spec)?.check(tensor))
    }

    /// Runs the model in the calling thread, with the help of the threads that its options give it.
    ///
    /// A run is terminated soon after its deadline, before its next operation.
    fn run(
        &self,
        signature: &Signature,
        inputs: Vec<Tensor>,
        outputs: &[usize],
        options: &RunOptions,
    ) -> Result<Vec<Tensor>> {
        if options.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(timed_out());
        }
        if inputs.len() != signature.inputs.len() {
            let text = format!("{} inputs for a signature of {}", inputs.len(), signature.inputs.len());
            return Err(ServingError::internal(text));
        }
        let mut names: Vec<*const c_char> = Vec::with_capacity(inputs.len());
        let mut fed = Vec::with_capacity(inputs.len());
        for (spec, tensor) in signature.inputs.iter().zip(inputs) {
            let declared = self.input(spec)?;
            declared.check(&tensor)?;
            names.push(declared.name.as_ptr());
            fed.push(Input::new(self.api, self.memory, tensor)?);
        }
        let values: Vec<*const RawValue> = fed.iter().map(Input::as_ptr).collect();
        let fetched = outputs.iter().map(|&position| self.output(&signature.outputs[position]));
        let fetched = fetched.collect::<Result<Vec<_>>>()?;
        let fetched_names: Vec<*const c_char> = fetched.iter().map(|declared| declared.name.as_ptr()).collect();
        let mut slots = OutputSlots { api: self.api, slots: vec![ptr::null_mut(); fetched.len()] };
        let (status, was_terminated) = self.timer.run_until(options.deadline, |run_options| {
            // SAFETY: session, options and values are alive, names end in a NUL, and all arrays have the right lengths.
            // The runtime keeps no pointer to any of them.
            unsafe {
                (self.api.run)(
                    self.raw.as_ptr(),
                    run_options,
                    names.as_ptr(),
                    values.as_ptr(),
                    values.len(),
                    fetched_names.as_ptr(),
                    fetched_names.len(),
                    slots.slots.as_mut_ptr(),
                )
            }
        });
        let result = self.api.check_during(During::Run, status);
        if was_terminated && result.is_err() {
            return Err(timed_out());
        }
        result?;
        fetched
            .iter()
            .enumerate()
            .map(|(slot, declared)| self.convert_output(slots.take(slot)?, declared, &fed))
            .collect()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after. Runs borrow the session, so none is in progress.
        unsafe { (self.api.release_session)(self.raw.as_ptr()) }
    }
}

/// The array for the outputs of a run. Dropping it frees outputs that were not taken.
struct OutputSlots {
    api: &'static Api,
    slots: Vec<*mut RawValue>,
}

impl OutputSlots {
    fn take(&mut self, index: usize) -> Result<RuntimeValue> {
        RuntimeValue::from_raw(self.api, std::mem::replace(&mut self.slots[index], ptr::null_mut()))
    }
}

impl Drop for OutputSlots {
    fn drop(&mut self) {
        for index in 0..self.slots.len() {
            drop(self.take(index));
        }
    }
}
