//! Converts tensors of the request path to tensors of the runtime and back, without copies where alignment allows.

use std::ffi::{c_int, c_void};
use std::ptr::{self, NonNull};

use aligned_vec::{AVec, ConstAlign};
use bytes::Bytes;
use servable_model::error::{Result, ServingError};
use servable_model::tensor::{ALIGNMENT, Buffer, DType, Elements, Strings, Tensor, element_count};
use servable_runtime::release;

use crate::api::{Api, RawTensor};
use crate::string::TString;

/// Outputs of up to this many bytes are copied.
const COPIED_BYTES: usize = 4096;

/// An owned `TF_Tensor`.
pub(crate) struct RuntimeTensor {
    api: &'static Api,
    raw: NonNull<RawTensor>,
}

// SAFETY: a `TF_Tensor` is a shape and a counted reference to memory. Neither is changed here, the count is atomic, and
// any thread may free the memory.
unsafe impl Send for RuntimeTensor {}
// SAFETY: as above. The functions that are called through a shared reference only read.
unsafe impl Sync for RuntimeTensor {}

impl RuntimeTensor {
    /// Passes a tensor to the runtime.
    ///
    /// Numbers are not copied: the runtime reads the buffer in place. The buffer is dropped with the last tensor that
    /// shares it. That may be an output or a variable, long after the run. The runtime itself copies a buffer that is
    /// not aligned for its vector instructions (64 bytes, in the wheels). Strings are copied, because their layout
    /// differs.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if the runtime cannot represent the tensor.
    pub(crate) fn new(api: &'static Api, tensor: Tensor) -> Result<Self> {
        let (dtype, shape, elements) = tensor.into_parts();
        let raw = match elements {
            // SAFETY: `data` and `length` are those of the buffer, whose memory does not move with its owner. The
            // runtime never writes to memory that it did not allocate, so the memory may be shared.
            Elements::Numbers(buffer) => unsafe {
                let buffer = Box::new(buffer);
                let (data, length) = (buffer.as_ref().as_ref().as_ptr(), buffer.as_ref().as_ref().len());
                new_raw_tensor(api, dtype, &shape, data.cast(), length, buffer)
            },
            // SAFETY: the memory of a tensor of strings is an array of `TString`.
            Elements::Strings(strings) => unsafe {
                let array = Box::new(StringArray::from_iter(ALIGNMENT, strings.iter().map(TString::new)));
                let (data, length) = (array.as_ptr(), size_of_val(array.as_slice()));
                new_raw_tensor(api, dtype, &shape, data.cast(), length, array)
            },
        };
        let invalid = || ServingError::invalid_argument(format!("cannot make a {dtype} tensor of shape {shape:?}"));
        Ok(Self { api, raw: NonNull::new(raw).ok_or_else(invalid)? })
    }

    /// Takes over a tensor that the runtime made.
    ///
    /// # Safety
    ///
    /// `raw` must be a tensor without another owner.
    pub(crate) unsafe fn from_raw(api: &'static Api, raw: NonNull<RawTensor>) -> Self {
        Self { api, raw }
    }

    pub(crate) fn as_ptr(&self) -> *mut RawTensor {
        self.raw.as_ptr()
    }

    /// Converts to a tensor of the request path. Numbers stay in the memory of the runtime until the result is dropped,
    /// unless they are few. Strings are copied into one block.
    ///
    /// # Errors
    ///
    /// `UNIMPLEMENTED` for dtypes that no client could receive: resources, variants, and packed 4- and 2-bit integers.
    pub(crate) fn into_tensor(self) -> Result<Tensor> {
        let (dtype, shape) = (self.dtype(), self.shape());
        let count = element_count(&shape);
        if dtype == DType::STRING && count.is_some_and(|count| self.byte_size() == count * size_of::<TString>()) {
            return Ok(Tensor::from_strings(shape, self.strings()));
        }
        match dtype.size().zip(count) {
            Some((size, count)) if self.byte_size() == count * size => {
                // Freeing memory may take long, and is best done during the run. A small copy costs no more than
                // sharing.
                let little = self.byte_size() <= COPIED_BYTES;
                let bytes =
                    if little { Bytes::copy_from_slice(self.as_ref()) } else { Bytes::from_owner(Lent(Some(self))) };
                Ok(Tensor::from_numbers(dtype, shape, Buffer::Shared(bytes)))
            }
            Some(_) => Err(ServingError::internal(format!(
                "the runtime returned {} bytes for a {dtype} tensor of shape {shape:?}",
                self.byte_size()
            ))),
            None => Err(ServingError::unimplemented(format!("A {dtype} tensor cannot be returned to a client"))),
        }
    }

    fn dtype(&self) -> DType {
        // SAFETY: the tensor is alive.
        DType(unsafe { (self.api.tensor_type)(self.as_ptr()) })
    }

    fn shape(&self) -> Vec<i64> {
        // SAFETY: the tensor is alive, and the indices are within its rank.
        unsafe {
            let rank = (self.api.num_dims)(self.as_ptr());
            (0..rank).map(|index| (self.api.dim)(self.as_ptr(), index)).collect()
        }
    }

    fn byte_size(&self) -> usize {
        // SAFETY: the tensor is alive.
        unsafe { (self.api.tensor_byte_size)(self.as_ptr()) }
    }

    fn data(&self) -> *const c_void {
        // SAFETY: the tensor is alive.
        unsafe { (self.api.tensor_data)(self.as_ptr()) }
    }

    /// The elements of a tensor of strings, copied.
    fn strings(&self) -> Strings {
        let array = self.data().cast::<TString>();
        let count = self.byte_size() / size_of::<TString>();
        // SAFETY: the array has that many strings. The runtime made them, or kept ours unchanged.
        let texts = || (0..count).map(|index| unsafe { TString::text(array.add(index)) });
        let mut block = Vec::with_capacity(texts().map(<[u8]>::len).sum());
        let mut ranges = Vec::with_capacity(count);
        for text in texts() {
            let start = block.len();
            block.extend_from_slice(text);
            ranges.push((start, block.len()));
        }
        Strings::new(block.into(), ranges)
    }
}

impl AsRef<[u8]> for RuntimeTensor {
    /// The elements of a tensor of numbers.
    fn as_ref(&self) -> &[u8] {
        match self.byte_size() {
            0 => &[],
            // SAFETY: the memory has that many bytes, lives as long as the tensor, and is not written: the run that
            // made it has ended, and the runtime copies shared memory before it changes it. TF1's variables by
            // reference are the exception. A graph that returns one may change it while this is read. The client then
            // gets a mixture of old and new bytes, as from TensorFlow Serving.
            size => unsafe { std::slice::from_raw_parts(self.data().cast(), size) },
        }
    }
}

/// The memory of an output, which is lent to the request path.
struct Lent(Option<RuntimeTensor>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], AsRef::as_ref)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        release(self.0.take());
    }
}

impl Drop for RuntimeTensor {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after.
        unsafe { (self.api.delete_tensor)(self.as_ptr()) }
    }
}

/// The memory of a tensor of strings. Dropping it frees the strings.
type StringArray = AVec<TString, ConstAlign<ALIGNMENT>>;

/// Makes a `TF_Tensor` over memory that `owner` owns, and drops `owner` once the runtime no longer needs the memory.
/// Returns null if the runtime finds that memory and shape are inconsistent.
///
/// # Safety
///
/// The memory must not move with `owner`, must have the layout that the runtime expects for the dtype, and must be safe
/// to read and to drop from any thread.
unsafe fn new_raw_tensor<O: Send + Sync>(
    api: &Api,
    dtype: DType,
    shape: &[i64],
    data: *const c_void,
    length: usize,
    owner: Box<O>,
) -> *mut RawTensor {
    let owner = Box::into_raw(owner).cast();
    // SAFETY: the length of the shape is right, the caller guarantees the memory, and the runtime calls the deallocator
    // exactly once, also if it returns null or copies.
    unsafe {
        (api.new_tensor)(
            dtype.0,
            shape.as_ptr(),
            shape.len() as c_int,
            data.cast_mut(),
            length,
            Some(drop_owner::<O>),
            owner,
        )
    }
}

/// The deallocator of every tensor that is made here.
///
/// # Safety
///
/// `owner` must come from `Box::<O>::into_raw`, and must not be used afterwards.
unsafe extern "C" fn drop_owner<O>(_data: *mut c_void, _length: usize, owner: *mut c_void) {
    // SAFETY: guaranteed by the caller.
    drop(unsafe { Box::from_raw(owner.cast::<O>()) });
}

/// The array for the outputs of a run. Dropping it deletes outputs that were not taken.
pub(crate) struct OutputSlots {
    api: &'static Api,
    slots: Vec<*mut RawTensor>,
}

impl OutputSlots {
    pub(crate) fn new(api: &'static Api, count: usize) -> Self {
        Self { api, slots: vec![ptr::null_mut(); count] }
    }

    /// The array that the runtime writes. Each element is null, or becomes ours.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut *mut RawTensor {
        self.slots.as_mut_ptr()
    }

    /// Takes the output of this slot; `None` if it is empty.
    pub(crate) fn take(&mut self, index: usize) -> Option<RuntimeTensor> {
        let raw = NonNull::new(std::mem::replace(&mut self.slots[index], ptr::null_mut()))?;
        // SAFETY: the runtime has passed ownership of the tensor, and the slot is cleared.
        Some(unsafe { RuntimeTensor::from_raw(self.api, raw) })
    }
}

impl Drop for OutputSlots {
    fn drop(&mut self) {
        for index in 0..self.slots.len() {
            drop(self.take(index));
        }
    }
}
