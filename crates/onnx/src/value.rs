//! Converts tensors of the request path to values of the runtime and back, without copies where possible.

use std::ffi::c_void;
use std::ops::Range;
use std::ptr::{self, NonNull};

use bytes::Bytes;
use servable_model::error::{Result, ServingError};
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, DType, Elements, Strings, Tensor, element_count};
use servable_runtime::release;

use crate::api::{Api, RawAllocator, RawMemoryInfo, RawTensorInfo, RawValue};
use crate::status::During;

/// Outputs of up to this many bytes are copied.
const COPIED_BYTES: usize = 4096;

/// The dtypes that clients and runtime both have, with their numbers in `ONNXTensorElementDataType`.
const DTYPES: [(DType, i32); 14] = [
    (DType::FLOAT, 1),
    (DType::UINT8, 2),
    (DType::INT8, 3),
    (DType::UINT16, 4),
    (DType::INT16, 5),
    (DType::INT32, 6),
    (DType::INT64, 7),
    (DType::STRING, 8),
    (DType::BOOL, 9),
    (DType::HALF, 10),
    (DType::DOUBLE, 11),
    (DType::UINT32, 12),
    (DType::UINT64, 13),
    (DType::BFLOAT16, 16),
];

/// The names of the other element types, by number.
const OTHERS: [(i32, &str); 14] = [
    (14, "complex64"),
    (15, "complex128"),
    (17, "float8e4m3fn"),
    (18, "float8e4m3fnuz"),
    (19, "float8e5m2"),
    (20, "float8e5m2fnuz"),
    (21, "uint4"),
    (22, "int4"),
    (23, "float4e2m1"),
    (24, "float8e8m0"),
    (25, "uint2"),
    (26, "int2"),
    (0, "undefined"),
    (-1, "none"),
];

/// The dtype of an element type, or the name of one that no client could send or receive.
pub(crate) fn dtype_of(element_type: i32) -> Result<DType, String> {
    if let Some((dtype, _)) = DTYPES.iter().find(|(_, number)| *number == element_type) {
        return Ok(*dtype);
    }
    let name = OTHERS.iter().find(|(number, _)| *number == element_type).map(|(_, name)| (*name).to_owned());
    Err(name.unwrap_or_else(|| format!("element type {element_type}")))
}

fn element_type_of(dtype: DType) -> Result<i32> {
    let found = DTYPES.iter().find(|(known, _)| *known == dtype);
    let unknown = || ServingError::invalid_argument(format!("ONNX Runtime has no tensors of {dtype}"));
    found.map(|(_, number)| *number).ok_or_else(unknown)
}

/// What all values need: descriptions of the memory of this process.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) info: *const RawMemoryInfo,
    pub(crate) allocator: *mut RawAllocator,
}

// SAFETY: neither is changed after it was made, and the default allocator may be used by any thread.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// An owned `OrtValue`.
pub(crate) struct RuntimeValue {
    api: &'static Api,
    raw: NonNull<RawValue>,
}

// SAFETY: a value is a counted reference to memory that is not written any more. Any thread may read and free it.
unsafe impl Send for RuntimeValue {}
// SAFETY: as above. The functions that are called through a shared reference only read.
unsafe impl Sync for RuntimeValue {}

/// An input of a run, with the memory that it refers to.
pub(crate) struct Input {
    value: RuntimeValue,
    /// Dropped after the value.
    buffer: Option<Buffer>,
}

impl Input {
    /// Passes a tensor to the runtime.
    ///
    /// Numbers are not copied: the runtime reads the buffer in place, unless it is not aligned for its elements.
    /// Strings are copied, because their layout differs.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` for a dtype that the runtime does not have.
    pub(crate) fn new(api: &'static Api, memory: Memory, tensor: Tensor) -> Result<Self> {
        let (dtype, shape, elements) = tensor.into_parts();
        let element_type = element_type_of(dtype)?;
        let mut raw = ptr::null_mut();
        match elements {
            Elements::Numbers(buffer) => {
                let buffer = aligned(buffer, dtype);
                let bytes = buffer.as_ref();
                // SAFETY: the lengths of memory and shape are right. The runtime does not write to inputs. The memory
                // does not move with its owner, which lives longer than the value.
                api.check_during(During::Run, unsafe {
                    (api.create_tensor_with_data_as_ort_value)(
                        memory.info,
                        bytes.as_ptr().cast::<c_void>().cast_mut(),
                        bytes.len(),
                        shape.as_ptr(),
                        shape.len(),
                        element_type,
                        &raw mut raw,
                    )
                })?;
                Ok(Self { value: RuntimeValue::from_raw(api, raw)?, buffer: Some(buffer) })
            }
            Elements::Strings(strings) => {
                // SAFETY: the length of the shape is right.
                api.check_during(During::Run, unsafe {
                    (api.create_tensor_as_ort_value)(
                        memory.allocator,
                        shape.as_ptr(),
                        shape.len(),
                        element_type,
                        &raw mut raw,
                    )
                })?;
                let value = RuntimeValue::from_raw(api, raw)?;
                for (index, text) in strings.iter().enumerate() {
                    let mut place = ptr::null_mut();
                    // SAFETY: the tensor has this many strings, and is ours. The result has as many bytes as asked for.
                    unsafe {
                        api.check_during(During::Run, {
                            (api.get_resized_string_tensor_element_buffer)(raw, index, text.len(), &raw mut place)
                        })?;
                        ptr::copy_nonoverlapping(text.as_ptr(), place.cast(), text.len());
                    }
                }
                Ok(Self { value, buffer: None })
            }
        }
    }

    pub(crate) fn as_ptr(&self) -> *const RawValue {
        self.value.raw.as_ptr()
    }

    /// The addresses of the memory that it lends to the runtime.
    pub(crate) fn addresses(&self) -> Option<Range<*const u8>> {
        self.buffer.as_ref().map(|buffer| buffer.as_ref().as_ptr_range())
    }
}

/// The buffer, or a copy of it if its elements are not aligned.
fn aligned(buffer: Buffer, dtype: DType) -> Buffer {
    let bytes = buffer.as_ref();
    let size = dtype.size().unwrap_or(1);
    if bytes.as_ptr().addr().is_multiple_of(size) {
        return buffer;
    }
    let mut copy = AlignedBytes::with_capacity(ALIGNMENT, bytes.len());
    copy.extend_from_slice(bytes);
    Buffer::Owned(copy)
}

impl RuntimeValue {
    /// Takes over a value that the runtime made.
    ///
    /// # Errors
    ///
    /// `INTERNAL` for null.
    pub(crate) fn from_raw(api: &'static Api, raw: *mut RawValue) -> Result<Self> {
        let raw = NonNull::new(raw).ok_or_else(|| ServingError::internal("the runtime returned no value"))?;
        Ok(Self { api, raw })
    }

    /// Converts to a tensor of the request path. Numbers stay in the memory of the runtime until the result is dropped,
    /// unless they are few, or the memory is that of an input. Strings are copied into one block.
    ///
    /// # Errors
    ///
    /// `INTERNAL` if it is no tensor of this dtype.
    pub(crate) fn into_tensor(self, dtype: DType, inputs: &[Input]) -> Result<Tensor> {
        let (found, shape) = self.type_and_shape()?;
        if found != dtype {
            return Err(ServingError::internal(format!("the runtime returned a {found} tensor, want {dtype}")));
        }
        let overflow = || ServingError::internal(format!("the runtime returned a tensor of shape {shape:?}"));
        let count = element_count(&shape).ok_or_else(overflow)?;
        let Some(size) = dtype.size() else {
            let strings = self.strings(count)?;
            return Ok(Tensor::from_strings(shape, strings));
        };
        let lent = Lent { data: self.data()?, length: count * size, value: Some(self) };
        let start = lent.data.cast_const();
        // A model may return its input, or a part of it.
        let is_input = inputs.iter().filter_map(Input::addresses).any(|addresses| addresses.contains(&start));
        // Freeing memory may take long, and is best done during the run. A small copy costs no more than sharing.
        let bytes = if is_input || lent.length <= COPIED_BYTES {
            Bytes::copy_from_slice(lent.as_ref())
        } else {
            Bytes::from_owner(lent)
        };
        Ok(Tensor::from_numbers(dtype, shape, Buffer::Shared(bytes)))
    }

    /// Converts a sequence of maps from class to number to a matrix: a row for each map, its numbers sorted by class.
    ///
    /// # Errors
    ///
    /// `INTERNAL` if maps differ in their size.
    pub(crate) fn into_matrix(self, memory: Memory, dtype: DType) -> Result<Tensor> {
        let size = dtype.size().unwrap_or_default();
        let (rows, mut columns, mut bytes) = (self.count()?, None, AlignedBytes::new(ALIGNMENT));
        for row in 0..rows {
            let values = self.element(memory, row)?.element(memory, 1)?;
            let (found, shape) = values.type_and_shape()?;
            let count = element_count(&shape).unwrap_or_default();
            if found != dtype || *columns.get_or_insert(count) != count {
                let text = format!("the runtime returned a map of {count} {found} in row {row}");
                return Err(ServingError::internal(text));
            }
            let length = count * size;
            let data = values.data()?;
            if length > 0 {
                // SAFETY: a tensor of numbers has that many bytes, and is alive.
                bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(data, length) });
            }
        }
        let shape = vec![rows as i64, columns.unwrap_or_default() as i64];
        Ok(Tensor::from_numbers(dtype, shape, Buffer::Owned(bytes)))
    }

    fn type_and_shape(&self) -> Result<(DType, Vec<i64>)> {
        let mut info = ptr::null_mut();
        // SAFETY: the value is alive. The result is ours.
        self.check(unsafe { (self.api.get_tensor_type_and_shape)(self.raw.as_ptr(), &raw mut info) })?;
        let info = TensorInfo(self.api, info);
        // SAFETY: the description is alive.
        let (element_type, shape) = unsafe { type_and_shape(self.api, info.1) }?;
        let unknown = |name| ServingError::internal(format!("the runtime returned a tensor of {name}"));
        Ok((dtype_of(element_type).map_err(unknown)?, shape))
    }

    /// The memory of a tensor of numbers.
    fn data(&self) -> Result<*mut u8> {
        let mut data = ptr::null_mut();
        // SAFETY: the value is alive, and a tensor of numbers.
        self.check(unsafe { (self.api.get_tensor_mutable_data)(self.raw.as_ptr(), &raw mut data) })?;
        Ok(data.cast())
    }

    /// The elements of a tensor of strings, copied.
    fn strings(&self, count: usize) -> Result<Strings> {
        let (mut length, mut starts) = (0, vec![0_usize; count]);
        // SAFETY: the value is alive, and a tensor of strings.
        self.check(unsafe { (self.api.get_string_tensor_data_length)(self.raw.as_ptr(), &raw mut length) })?;
        let mut block = vec![0_u8; length];
        if count > 0 {
            // SAFETY: both arrays have the lengths that the runtime has told.
            self.check(unsafe {
                (self.api.get_string_tensor_content)(
                    self.raw.as_ptr(),
                    block.as_mut_ptr().cast(),
                    length,
                    starts.as_mut_ptr(),
                    count,
                )
            })?;
        }
        let ends = starts.iter().skip(1).copied().chain([length]);
        let ranges = starts.iter().copied().zip(ends).collect();
        Ok(Strings::new(block.into(), ranges))
    }

    /// The number of elements of a sequence.
    fn count(&self) -> Result<usize> {
        let mut count = 0;
        // SAFETY: the value is alive.
        self.check(unsafe { (self.api.get_value_count)(self.raw.as_ptr(), &raw mut count) })?;
        Ok(count)
    }

    /// An element of a sequence. Those of a map are its keys and its values.
    fn element(&self, memory: Memory, index: usize) -> Result<Self> {
        let mut element = ptr::null_mut();
        // SAFETY: the value is alive. The runtime checks the index. The result is ours.
        self.check(unsafe {
            (self.api.get_value)(self.raw.as_ptr(), index as i32, memory.allocator, &raw mut element)
        })?;
        Self::from_raw(self.api, element)
    }

    fn check(&self, status: crate::api::Status) -> Result<()> {
        self.api.check_during(During::Run, status)
    }
}

impl Drop for RuntimeValue {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after.
        unsafe { (self.api.release_value)(self.raw.as_ptr()) }
    }
}

/// The element type and the shape in a description of a tensor; -1 for a size that is free.
///
/// # Safety
///
/// The description must be alive.
pub(crate) unsafe fn type_and_shape(api: &Api, info: *const RawTensorInfo) -> Result<(i32, Vec<i64>)> {
    let (mut element_type, mut rank) = (0, 0);
    // SAFETY: guaranteed by the caller.
    unsafe {
        api.check((api.get_tensor_element_type)(info, &raw mut element_type))?;
        api.check((api.get_dimensions_count)(info, &raw mut rank))?;
        let mut shape = vec![0; rank];
        api.check((api.get_dimensions)(info, shape.as_mut_ptr(), rank))?;
        Ok((element_type, shape))
    }
}

/// An owned `OrtTensorTypeAndShapeInfo`.
struct TensorInfo(&'static Api, *mut RawTensorInfo);

impl Drop for TensorInfo {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after.
        unsafe { (self.0.release_tensor_type_and_shape_info)(self.1) }
    }
}

/// The memory of an output, which is lent to the request path.
struct Lent {
    data: *mut u8,
    length: usize,
    value: Option<RuntimeValue>,
}

// SAFETY: the memory belongs to the value, and is not written any more.
unsafe impl Send for Lent {}
// SAFETY: as above.
unsafe impl Sync for Lent {}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        match self.length {
            0 => &[],
            // SAFETY: the tensor has that many bytes, lives as long as this, and is not written: the run that made it
            // has ended.
            length => unsafe { std::slice::from_raw_parts(self.data, length) },
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        release(self.value.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_has_one_number_and_the_others_are_named() {
        for (dtype, number) in DTYPES {
            assert_eq!(dtype_of(number), Ok(dtype));
            assert_eq!(element_type_of(dtype), Ok(number));
        }
        assert_eq!(dtype_of(22), Err("int4".to_owned()));
        assert_eq!(dtype_of(99), Err("element type 99".to_owned()));
        assert!(element_type_of(DType::COMPLEX64).is_err());
    }

    #[test]
    fn only_misaligned_elements_are_copied() {
        let mut bytes = AlignedBytes::new(ALIGNMENT);
        bytes.extend_from_slice(&[0; 16]);
        let bytes = Bytes::from_owner(bytes);
        for (start, dtype, is_copied) in [(0, DType::DOUBLE, false), (4, DType::DOUBLE, true), (4, DType::FLOAT, false)]
        {
            let part = bytes.slice(start..start + 8);
            let address = part.as_ptr();
            assert_eq!(aligned(Buffer::Shared(part), dtype).as_ref().as_ptr() != address, is_copied);
        }
    }
}
