//! Tensors across the border: memory is lent to Python for inputs, and copied once for outputs.
//!
//! Memory crosses by the array interface of `NumPy`. The buffer protocol is not available to extensions for the stable
//! ABI of Python 3.10. Strings cross as `list[bytes]`.

use pyo3::exceptions::{PyMemoryError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, DType, Elements, Strings, Tensor};

/// A tensor from Python: the number of its dtype, its shape, and its elements in a form that [`copy`] accepts.
pub(crate) type Sent<'py> = (i32, Vec<i64>, Bound<'py, PyAny>);

/// A tensor of numbers whose memory Python may read while it holds this object.
///
/// The object owns the tensor, and an array made of it holds a reference to the object. So memory that a model keeps
/// after its run stays valid.
#[pyclass(name = "LentTensor", module = "servable._core", frozen)]
pub(crate) struct LentTensor {
    buffer: Buffer,
    shape: Vec<i64>,
    type_string: &'static str,
}

#[pymethods]
impl LentTensor {
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let is_read_only = true;
        let interface = PyDict::new(py);
        interface.set_item("version", 3)?;
        interface.set_item("typestr", self.type_string)?;
        interface.set_item("shape", PyTuple::new(py, &self.shape)?)?;
        interface.set_item("data", (self.buffer.as_ref().as_ptr() as usize, is_read_only))?;
        Ok(interface)
    }
}

/// The Python object for a tensor: a [`LentTensor`], or the shape and the elements of a tensor of strings.
pub(crate) fn lend(py: Python<'_>, tensor: Tensor) -> PyResult<Bound<'_, PyAny>> {
    let (dtype, shape, elements) = tensor.into_parts();
    match elements {
        Elements::Strings(strings) => {
            let elements = PyList::new(py, strings.iter().map(|string| PyBytes::new(py, string)))?;
            Ok((PyTuple::new(py, shape)?, elements).into_pyobject(py)?.into_any())
        }
        Elements::Numbers(buffer) => {
            let type_string = type_string(dtype)
                .ok_or_else(|| PyTypeError::new_err(format!("{dtype} tensors cannot be lent to Python")))?;
            Ok(Bound::new(py, LentTensor { buffer, shape, type_string })?.into_any())
        }
    }
}

/// The names of a dtype in `NumPy` and in the array interface; `None` for dtypes without arrays of numbers in Python.
///
/// The interface has no name for bfloat16. It crosses as two bytes, and Python sets the dtype of the array.
fn array_names(dtype: DType) -> Option<(&'static str, &'static str)> {
    Some(match dtype {
        DType::FLOAT => ("float32", "<f4"),
        DType::DOUBLE => ("float64", "<f8"),
        DType::HALF => ("float16", "<f2"),
        DType::BFLOAT16 => ("bfloat16", "|V2"),
        DType::INT8 => ("int8", "|i1"),
        DType::INT16 => ("int16", "<i2"),
        DType::INT32 => ("int32", "<i4"),
        DType::INT64 => ("int64", "<i8"),
        DType::UINT8 => ("uint8", "|u1"),
        DType::UINT16 => ("uint16", "<u2"),
        DType::UINT32 => ("uint32", "<u4"),
        DType::UINT64 => ("uint64", "<u8"),
        DType::BOOL => ("bool", "|b1"),
        DType::COMPLEX64 => ("complex64", "<c8"),
        DType::COMPLEX128 => ("complex128", "<c16"),
        _ => return None,
    })
}

fn type_string(dtype: DType) -> Option<&'static str> {
    array_names(dtype).map(|(_, type_string)| type_string)
}

/// The name of a dtype in declarations of Python servables, for error messages.
pub(crate) fn declared_name(dtype: DType) -> String {
    match array_names(dtype) {
        Some((name, _)) => name.to_owned(),
        None if dtype == DType::STRING => "bytes".to_owned(),
        None => dtype.name(),
    }
}

/// Whether Python servables support tensors of this dtype.
pub(crate) fn is_supported(dtype: DType) -> bool {
    dtype == DType::STRING || type_string(dtype).is_some()
}

/// The part of the array interface that describes the memory layout of an array.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct ArrayInterface {
    typestr: String,
    shape: Vec<i64>,
    strides: Option<Vec<i64>>,
    data: (usize, bool),
}

/// Copies an output of a model: an array for numbers, a list of `bytes` for strings.
///
/// # Errors
///
/// An exception if the object is not a contiguous array of that dtype and shape, or has another number of strings.
pub(crate) fn copy(object: &Bound<'_, PyAny>, dtype: DType, shape: Vec<i64>) -> PyResult<Tensor> {
    let count: usize = shape.iter().map(|&size| size as usize).product();
    if dtype == DType::STRING {
        let strings: Vec<PyBackedBytes> = object.extract()?;
        if strings.len() != count {
            return Err(PyValueError::new_err(format!("{} strings for a tensor of {count}", strings.len())));
        }
        return Ok(Tensor::from_strings(shape, Strings::from_iter(strings)));
    }
    let array: ArrayInterface = object.getattr("__array_interface__")?.extract()?;
    if Some(array.typestr.as_str()) != type_string(dtype) || array.shape != shape || array.strides.is_some() {
        return Err(PyValueError::new_err("an array is not laid out as its description says"));
    }
    let len = count * dtype.size().expect("a dtype of numbers, as it has a type string");
    let mut bytes = AlignedBytes::new(ALIGNMENT);
    bytes.try_reserve_exact(len).map_err(|_| PyMemoryError::new_err(format!("no memory for {len} bytes")))?;
    if len > 0 {
        // SAFETY: by the array interface, an array without strides is contiguous from this address on. It has `count`
        // elements by its shape, with the size of its type string, as long as the array lives. The caller holds the
        // array. The model must not change the elements during the copy, as with every array that it passes to another
        // thread.
        bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(array.data.0 as *const u8, len) });
    }
    Ok(Tensor::from_numbers(dtype, shape, Buffer::Owned(bytes)))
}
