//! One compiled model: a graph with memory for its tensors, which runs one request or batch at a time.

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Instant;

use servable_model::call::timed_out;
use servable_model::error::{Code, Result, ServingError};
use servable_model::tensor::{AlignedBytes, Buffer, DType, Elements, Tensor, element_count, shape_text};

use crate::api::{Api, RawCompiledModel, RawLayout, RawModel, RawStatus, RawTensorBuffer, RawTensorType};
use crate::file::MAX_RANK;
use crate::memory::{Memory, is_usable};
use crate::signatures::{Graph, Port};
use crate::strings;

/// The initial memory for an output of strings, beyond the size of all inputs. `LiteRT` reports only after a run that it
/// was too little.
const STRING_BYTES: usize = 16 * 1024;

/// The most memory for an output of strings.
const MOST_STRING_BYTES: usize = 256 * 1024 * 1024;

/// The bytes of a model file, and the `LiteRtModel` on them. All interpreters of a model share both.
pub(crate) struct LoadedFile {
    pub(crate) api: &'static Api,
    pub(crate) raw: NonNull<RawModel>,
    /// The runtime refers to constants in them.
    pub(crate) _bytes: AlignedBytes,
}

// SAFETY: the runtime only reads the model after it was loaded.
unsafe impl Send for LoadedFile {}
// SAFETY: as above.
unsafe impl Sync for LoadedFile {}

impl Drop for LoadedFile {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after: interpreters share the ownership of this.
        unsafe { (self.api.destroy_model)(self.raw.as_ptr()) }
    }
}

/// An owned `LiteRtCompiledModel`.
pub(crate) struct Interpreter {
    api: &'static Api,
    raw: NonNull<RawCompiledModel>,
    /// One for each graph.
    states: Vec<State>,
    /// The deadline of the run in progress. The runtime has a pointer to it.
    deadline: Box<Cell<Option<Instant>>>,
    /// The graph of the model lies in its memory.
    _file: Arc<LoadedFile>,
}

// SAFETY: a compiled model is not tied to a thread. The cell is used only by the thread that runs the model.
unsafe impl Send for Interpreter {}

/// The shapes of a graph after its last resize.
#[derive(Clone, Debug, Default)]
struct State {
    /// `None` if the last resize failed, or there was none.
    input_shapes: Option<Vec<Vec<i64>>>,
    output_shapes: Vec<Vec<i64>>,
}

/// An error of the runtime, with its messages.
#[derive(Debug)]
pub(crate) struct Failure {
    status: RawStatus,
    pub(crate) messages: String,
}

impl Failure {
    pub(crate) fn into_error(self, what: &str) -> ServingError {
        let reason = if self.messages.is_empty() { format!("status {}", self.status) } else { self.messages };
        ServingError::internal(format!("{what}: {reason}"))
    }
}

/// The memory of one output of a run.
enum OutputMemory {
    Own(Memory),
    /// That of an earlier input or output, which is the same tensor; inputs are counted first.
    Same(usize),
}

impl Interpreter {
    /// Takes over a compiled model.
    ///
    /// # Safety
    ///
    /// `raw` must have been compiled from `file`, and have no other owner.
    pub(crate) unsafe fn from_raw(
        api: &'static Api,
        raw: NonNull<RawCompiledModel>,
        file: Arc<LoadedFile>,
        graphs: usize,
    ) -> Self {
        let deadline = Box::new(Cell::new(None));
        let data = ptr::from_ref::<Cell<Option<Instant>>>(&deadline).cast_mut().cast();
        // SAFETY: the cell has a stable address, and lives as long as the compiled model. A failure leaves runs without
        // a deadline, and the caller is answered at its deadline all the same.
        unsafe { (api.set_cancellation)(raw.as_ptr(), data, Some(is_late)) };
        Self { api, raw, states: vec![State::default(); graphs], deadline, _file: file }
    }

    /// Whether the last run of a graph had these shapes.
    pub(crate) fn has_shapes(&self, graph: usize, inputs: &[Tensor]) -> bool {
        let shapes = self.states[graph].input_shapes.as_deref();
        shapes.is_some_and(|shapes| shapes.iter().map(Vec::as_slice).eq(inputs.iter().map(Tensor::shape)))
    }

    /// Gives inputs these shapes, and returns those of the outputs.
    ///
    /// # Errors
    ///
    /// The messages of the runtime. Another resize may succeed after that.
    pub(crate) fn resize<'a>(
        &mut self,
        position: usize,
        graph: &Graph,
        shapes: impl Iterator<Item = &'a [i64]>,
    ) -> Result<&[Vec<i64>], Failure> {
        let shapes: Vec<Vec<i64>> = shapes.map(<[i64]>::to_vec).collect();
        self.states[position] = State::default();
        for (input, shape) in shapes.iter().enumerate() {
            let sizes: Vec<c_int> = shape.iter().map(|&size| size as c_int).collect();
            // The shape of a scalar is constant.
            if !sizes.is_empty() {
                // SAFETY: the array has that many sizes.
                let status = unsafe {
                    (self.api.resize_input)(self.raw.as_ptr(), graph.index, input, sizes.as_ptr(), sizes.len())
                };
                self.check(status)?;
            }
        }
        let output_shapes = self.output_shapes(graph, true)?;
        self.states[position] = State { input_shapes: Some(shapes), output_shapes };
        Ok(&self.states[position].output_shapes)
    }

    fn output_shapes(&mut self, graph: &Graph, allocate: bool) -> Result<Vec<Vec<i64>>, Failure> {
        // The runtime writes as many sizes as there are, beyond the end of a layout if necessary. The next layout is
        // written later. The layouts at the end leave room for the last one, since a rank has seven bits.
        let count = graph.outputs.len();
        let mut layouts = vec![RawLayout::default(); count + 128_usize.div_ceil(MAX_RANK)];
        // SAFETY: the array has at least that many layouts, and room for the sizes of the last.
        let status =
            unsafe { (self.api.output_layouts)(self.raw.as_ptr(), graph.index, count, layouts.as_mut_ptr(), allocate) };
        self.check(status)?;
        let shape = |layout: &RawLayout| {
            let sizes = layout.dimensions.get(..(layout.rank & 0x7f) as usize)?;
            Some(sizes.iter().map(|&size| i64::from(size)).collect())
        };
        let shapes: Option<Vec<Vec<i64>>> = layouts[..count].iter().map(shape).collect();
        shapes.ok_or_else(|| Failure { status: 0, messages: format!("an output has a rank above {MAX_RANK}") })
    }

    /// Runs a graph, and returns all its outputs.
    pub(crate) fn run(
        &mut self,
        position: usize,
        graph: &Graph,
        inputs: Vec<Tensor>,
        deadline: Option<Instant>,
    ) -> Result<Vec<Tensor>> {
        if !self.has_shapes(position, &inputs) {
            let shapes = inputs.iter().map(Tensor::shape);
            self.resize(position, graph, shapes).map_err(|failure| unfit(graph, &inputs, failure))?;
        }
        let fed = inputs.into_iter().map(Fed::new).collect::<Result<Vec<_>>>()?;
        let mut string_bytes = STRING_BYTES + fed.iter().map(|fed| fed.length).sum::<usize>();
        loop {
            match self.run_with(position, graph, &fed, string_bytes, deadline)? {
                Some(outputs) => return Ok(outputs),
                None if string_bytes < MOST_STRING_BYTES => string_bytes = (8 * string_bytes).min(MOST_STRING_BYTES),
                None => {
                    let text = format!("an output of strings has more than {MOST_STRING_BYTES} bytes");
                    return Err(ServingError::new(Code::ResourceExhausted, text));
                }
            }
        }
    }

    /// Runs a graph with this much memory for each output of strings; `None` if that may have been too little.
    fn run_with(
        &mut self,
        position: usize,
        graph: &Graph,
        fed: &[Fed],
        string_bytes: usize,
        deadline: Option<Instant>,
    ) -> Result<Option<Vec<Tensor>>> {
        let shapes = &self.states[position].output_shapes;
        let mut memories = Vec::with_capacity(shapes.len());
        let mut buffers = Buffers::new(self.api, fed.len() + shapes.len());
        for (fed, port) in fed.iter().zip(&graph.inputs) {
            buffers.add(port.dtype, fed.tensor.shape(), fed.data, fed.length)?;
        }
        for ((port, shape), same) in graph.outputs.iter().zip(shapes).zip(&graph.same_tensors) {
            if let Some(same) = *same {
                // Other memory for the same tensor would take the place of the first.
                buffers.add_again(same);
                memories.push(OutputMemory::Same(same));
                continue;
            }
            let (size, mut memory) = if port.dtype == DType::STRING {
                (string_bytes, Memory::zeroed(string_bytes)?)
            } else {
                let size = size_of_output(port, shape)?;
                (size, Memory::with_capacity(size)?)
            };
            buffers.add(port.dtype, shape, memory.as_mut_ptr(), size)?;
            memories.push(OutputMemory::Own(memory));
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(timed_out());
        }
        self.deadline.set(deadline);
        let (inputs, outputs) = buffers.raw.split_at(fed.len());
        // SAFETY: the arrays have that many buffers, with live memory of the sizes that the graph has after its resize.
        // The runtime keeps addresses of the memory, and replaces them before it reads or writes there again.
        let status = unsafe {
            (self.api.run)(
                self.raw.as_ptr(),
                graph.index,
                inputs.len(),
                inputs.as_ptr(),
                outputs.len(),
                outputs.as_ptr(),
            )
        };
        drop(buffers);
        if let Err(failure) = self.check(status) {
            let is_late = deadline.is_some_and(|deadline| deadline <= Instant::now());
            let has_strings = graph.outputs.iter().any(|port| port.dtype == DType::STRING);
            return match failure.messages {
                _ if is_late => Err(timed_out()),
                messages if messages.contains("allocation_type ==") => Err(ServingError::unimplemented(
                    "an output has a shape that depends on values; LiteRT's C API cannot return such outputs",
                )),
                messages if messages.is_empty() && has_strings => Ok(None),
                messages => Err(Failure { messages, ..failure }.into_error("Failed to invoke TfLite interpreter")),
            };
        }
        let mut tensors: Vec<Tensor> = Vec::with_capacity(memories.len());
        for (output, memory) in memories.into_iter().enumerate() {
            let (port, shape) = (&graph.outputs[output], &self.states[position].output_shapes[output]);
            tensors.push(match memory {
                OutputMemory::Same(input) if input < fed.len() => fed[input].tensor.clone(),
                OutputMemory::Same(place) => tensors[place - fed.len()].clone(),
                OutputMemory::Own(memory) if port.dtype == DType::STRING => {
                    let strings = strings::unpack(memory.bytes());
                    let strings = strings.filter(|strings| Some(strings.len()) == element_count(shape));
                    let wrong = || ServingError::internal(format!("output \"{}\" has broken strings", port.alias));
                    Tensor::from_strings(shape.clone(), strings.ok_or_else(wrong)?)
                }
                OutputMemory::Own(memory) => {
                    let size = memory.capacity();
                    // SAFETY: the run has succeeded, and each output is computed by an operator, or is a constant, which
                    // was checked with the file. The memory has the size of the output.
                    let bytes = unsafe { memory.written(size) };
                    Tensor::from_numbers(port.dtype, shape.clone(), Buffer::Owned(bytes))
                }
            });
        }
        Ok(Some(tensors))
    }

    /// Turns a status into the messages that were reported with it.
    fn check(&mut self, status: RawStatus) -> Result<(), Failure> {
        if status == 0 {
            return Ok(());
        }
        let mut text = ptr::null_mut();
        // SAFETY: the runtime sets the pointer to a text that is ours, or leaves it null.
        let messages = unsafe {
            (self.api.error_messages)(self.raw.as_ptr(), &raw mut text);
            (self.api.clear_errors)(self.raw.as_ptr());
            if text.is_null() {
                String::new()
            } else {
                let messages = CStr::from_ptr(text).to_string_lossy().trim().replace('\n', "; ");
                libc::free(text.cast());
                messages
            }
        };
        Err(Failure { status, messages })
    }
}

impl Drop for Interpreter {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after. No run is in progress, because a run borrows it.
        unsafe { (self.api.destroy_compiled_model)(self.raw.as_ptr()) }
    }
}

/// The callback that cancels late runs.
///
/// # Safety
///
/// `data` must point to the deadline of the compiled model, on the thread that runs it.
unsafe extern "C" fn is_late(data: *mut c_void) -> bool {
    // SAFETY: guaranteed by the caller.
    let deadline = unsafe { &*data.cast::<Cell<Option<Instant>>>() };
    deadline.get().is_some_and(|deadline| deadline <= Instant::now())
}

/// The error if a graph cannot have the shapes of inputs.
fn unfit(graph: &Graph, inputs: &[Tensor], failure: Failure) -> ServingError {
    let shapes: Vec<String> = graph
        .inputs
        .iter()
        .zip(inputs)
        .map(|(port, input)| {
            let (got, wanted) = (shape_text(input.shape()), declared_text(&port.shape));
            format!("input \"{}\": got shape {got}, the model has {wanted}", port.alias)
        })
        .collect();
    let reason = failure.into_error("Failed to allocate tensors");
    ServingError::invalid_argument(format!("{}; {}", reason.text(), shapes.join(", ")))
}

/// A shape with `?` for free dimensions.
pub(crate) fn declared_text(shape: &[i64]) -> String {
    let sizes: Vec<String> =
        shape.iter().map(|&size| if size < 0 { "?".to_owned() } else { size.to_string() }).collect();
    format!("[{}]", sizes.join(","))
}

fn size_of_output(port: &Port, shape: &[i64]) -> Result<usize> {
    let size = element_count(shape).zip(port.dtype.size()).and_then(|(count, size)| count.checked_mul(size));
    size.ok_or_else(|| ServingError::internal(format!("output \"{}\" has shape {}", port.alias, shape_text(shape))))
}

/// An input in the form that the runtime reads.
struct Fed {
    tensor: Tensor,
    data: *mut u8,
    length: usize,
    _copy: Option<Memory>,
}

impl Fed {
    fn new(tensor: Tensor) -> Result<Self> {
        let mut copy = match tensor.elements() {
            Elements::Strings(strings) => Some(strings::pack(strings)?),
            Elements::Numbers(buffer) if is_usable(buffer) => None,
            Elements::Numbers(buffer) => Some(Memory::copy_of(buffer.as_ref())?),
        };
        let (data, length) = match (&mut copy, tensor.elements()) {
            (Some(copy), _) => (copy.as_mut_ptr(), copy.capacity()),
            // The runtime does not write inputs.
            (None, Elements::Numbers(buffer)) => (buffer.as_ref().as_ptr().cast_mut(), buffer.as_ref().len()),
            (None, Elements::Strings(_)) => unreachable!("strings are packed"),
        };
        Ok(Self { tensor, data, length, _copy: copy })
    }
}

/// The descriptions of memory for a run. Dropping them leaves the memory alone.
struct Buffers {
    api: &'static Api,
    raw: Vec<*mut RawTensorBuffer>,
    /// How many of `raw` are ours.
    owned: Vec<*mut RawTensorBuffer>,
}

impl Buffers {
    fn new(api: &'static Api, count: usize) -> Self {
        Self { api, raw: Vec::with_capacity(count), owned: Vec::with_capacity(count) }
    }

    fn add(&mut self, dtype: DType, shape: &[i64], data: *mut u8, length: usize) -> Result<()> {
        let mut layout = RawLayout { rank: shape.len() as u32, ..RawLayout::default() };
        for (size, &wanted) in layout.dimensions.iter_mut().zip(shape) {
            *size = wanted as i32;
        }
        let tensor_type = RawTensorType { element_type: element_type(dtype), layout };
        let mut buffer = ptr::null_mut();
        // SAFETY: the type is alive during the call, and the memory has that many bytes.
        let status = unsafe {
            (self.api.create_tensor_buffer)(&raw const tensor_type, data.cast(), length, None, &raw mut buffer)
        };
        if status != 0 || buffer.is_null() {
            let text = format!("the runtime takes no {dtype} tensor of shape {}: status {status}", shape_text(shape));
            return Err(ServingError::internal(text));
        }
        self.raw.push(buffer);
        self.owned.push(buffer);
        Ok(())
    }

    /// Adds the buffer at a position once more.
    fn add_again(&mut self, position: usize) {
        self.raw.push(self.raw[position]);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        for &buffer in &self.owned {
            // SAFETY: ours, and not used after.
            unsafe { (self.api.destroy_tensor_buffer)(buffer) }
        }
    }
}

/// `LiteRtElementType` of a dtype. The runtime compares only sizes with it. It refuses to describe memory with strings,
/// which are described as bytes.
fn element_type(dtype: DType) -> c_int {
    match dtype {
        DType::BOOL => 6,
        DType::INT8 => 9,
        DType::INT16 => 7,
        DType::INT32 => 2,
        DType::INT64 => 4,
        DType::UINT16 => 17,
        DType::UINT32 => 16,
        DType::UINT64 => 13,
        DType::HALF => 10,
        DType::BFLOAT16 => 19,
        DType::FLOAT => 1,
        DType::DOUBLE => 11,
        DType::COMPLEX64 => 8,
        DType::COMPLEX128 => 12,
        _ => 3,
    }
}
