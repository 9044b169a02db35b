//! Tensors of the request path to tensors of the runtime and back, without copies where alignment allows.

use std::ffi::{c_int, c_void};
use std::ptr::{self, NonNull};

use aligned_vec::{AVec, ConstAlign};
use bytes::Bytes;
use servable_model::error::{Result, ServingError};
use servable_model::tensor::{ALIGNMENT, Buffer, DType, Elements, Strings, Tensor, element_count};
use servable_runtime::release;

use crate::api::{Api, RawTensor};
use crate::string::TString;

/// Outputs of so many bytes are copied.
const COPIED_BYTES: usize = 4096;

/// A `TF_Tensor` of ours.
pub(crate) struct RuntimeTensor {
    api: &'static Api,
    raw: NonNull<RawTensor>,
}

// SAFETY: a `TF_Tensor` is a shape and a counted reference to memory. Nothing here changes either, the count is
// atomic, and the memory may be freed by any thread.
unsafe impl Send for RuntimeTensor {}
// SAFETY: as above; the functions that are called through a shared reference only read.
unsafe impl Sync for RuntimeTensor {}

impl RuntimeTensor {
    /// Hands a tensor to the runtime.
    ///
    /// Numbers go over as they are: the runtime reads the buffer in place, and drops it when the last tensor that
    /// shares it is deleted, which may be an output or a variable, long after the run. A buffer that does not start
    /// where its vector instructions want it (on 64 bytes, in the wheels) is copied, by the runtime itself. Strings are
    /// copied: no client's bytes have their layout.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` where a tensor cannot be represented.
    pub(crate) fn new(api: &'static Api, tensor: Tensor) -> Result<Self> {
        let (dtype, shape, elements) = tensor.into_parts();
        let raw = match elements {
            // SAFETY: `data` and `length` are those of the buffer, in memory that does not move with its owner. The
            // runtime never writes to memory that it did not allocate, so that shared memory is safe with it.
            Elements::Numbers(buffer) => unsafe {
                let buffer = Box::new(buffer);
                let (data, length) = (buffer.as_ref().as_ref().as_ptr(), buffer.as_ref().as_ref().len());
                new_raw_tensor(api, dtype, &shape, data.cast(), length, buffer)
            },
            // SAFETY: an array of `TString` is what a tensor of strings consists of.
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
    /// `raw` must be a tensor that is nobody else's.
    pub(crate) unsafe fn from_raw(api: &'static Api, raw: NonNull<RawTensor>) -> Self {
        Self { api, raw }
    }

    pub(crate) fn as_ptr(&self) -> *mut RawTensor {
        self.raw.as_ptr()
    }

    /// The tensor for the request path. Numbers stay in the runtime's memory until the result is dropped, unless they are
    /// few; strings are copied into one block.
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
                // To give memory back may take time, and is best done in the run. A copy of little costs no more than a loan.
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
        // SAFETY: the tensor is alive, and dimensions are asked for within its rank.
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
        // SAFETY: the array has that many strings, and the runtime made them or left ours as they were.
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
            // SAFETY: the memory has that many bytes, lives as long as the tensor, and is written by nobody: the run
            // that made it is over, and the runtime copies before it changes memory that is shared. TF1's variables by
            // reference are the exception. A graph that returns one, and changes it outside of its initialisation, may
            // do so while this is read, and the client gets old and new bytes mixed, as from the original server.
            size => unsafe { std::slice::from_raw_parts(self.data().cast(), size) },
        }
    }
}

/// The memory of an output until the request path needs it no longer.
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

/// The memory of a tensor of strings; frees them when it goes.
type StringArray = AVec<TString, ConstAlign<ALIGNMENT>>;

/// Makes a `TF_Tensor` over memory that `owner` owns, and drops `owner` once the runtime no longer needs the memory.
/// Null if the runtime finds memory and shape at odds.
///
/// # Safety
///
/// The memory must stay where it is while `owner` moves, hold what the runtime expects of the dtype, and be safe to
/// read and to drop from any thread.
unsafe fn new_raw_tensor<O: Send + Sync>(
    api: &Api,
    dtype: DType,
    shape: &[i64],
    data: *const c_void,
    length: usize,
    owner: Box<O>,
) -> *mut RawTensor {
    let owner = Box::into_raw(owner).cast();
    // SAFETY: the shape is as long as is said, the caller vouches for the memory, and the runtime calls the
    // deallocator exactly once, also where it returns null or copies.
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
/// `owner` must come from `Box::<O>::into_raw`, and not be used after.
unsafe extern "C" fn drop_owner<O>(_data: *mut c_void, _length: usize, owner: *mut c_void) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(owner.cast::<O>()) });
}

/// Room for the outputs of a run; deletes those that were not taken.
pub(crate) struct OutputSlots {
    api: &'static Api,
    slots: Vec<*mut RawTensor>,
}

impl OutputSlots {
    pub(crate) fn new(api: &'static Api, count: usize) -> Self {
        Self { api, slots: vec![ptr::null_mut(); count] }
    }

    /// Where the runtime writes its results, each of them null or ours.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut *mut RawTensor {
        self.slots.as_mut_ptr()
    }

    /// The output of this slot; `None` if there is none or it was taken.
    pub(crate) fn take(&mut self, index: usize) -> Option<RuntimeTensor> {
        let raw = NonNull::new(std::mem::replace(&mut self.slots[index], ptr::null_mut()))?;
        // SAFETY: the runtime has given the tensor to us, and the slot forgets it.
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
