"""Encoding of arrays as `tensorflow.TensorProto`, and decoding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from servable.client import _wire as wire
from servable.client._arrays import Array, dtype_name, numpy_dtype, object_array
from servable.client._messages import message_class
from servable.errors import BackendError
from servable.signature import DATA_TYPES

NAMES = {number: name for name, number in DATA_TYPES.items()}
"""NumPy's names of dtypes by the numbers of `tensorflow.DataType`; strings are `bytes`."""

# Fields of TensorProto, and of the messages in it.
_DTYPE, _SHAPE, _CONTENT, _STRINGS = 1, 2, 4, 8
_DIM, _SIZE, _UNKNOWN_RANK = 2, 1, 3
_RAW_FIELDS = {"float32": 5, "float64": 6, "complex64": 9, "complex128": 12}
"""The fields of packed elements, by dtype; their content is the bytes of the elements."""

_FIELD_NAMES = {
    "float32": "float_val",
    "float64": "double_val",
    "complex64": "scomplex_val",
    "complex128": "dcomplex_val",
    "float16": "half_val",
    "bfloat16": "half_val",
    "int64": "int64_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
    "bool": "bool_val",
    **dict.fromkeys(("int8", "int16", "int32", "uint8", "uint16"), "int_val"),
}


def encode(array: Array) -> list[wire.Piece]:
    """The pieces of a TensorProto; contiguous elements are lent, not copied."""
    name = dtype_name(array)
    dims = b"".join(
        wire.bytes_field(_DIM, wire.number_field(_SIZE, size) if size else b"")
        for size in array.shape
    )
    pieces: list[wire.Piece] = [
        wire.number_field(_DTYPE, DATA_TYPES[name]) + wire.bytes_field(_SHAPE, dims)
    ]
    if name == "bytes":
        for element in array.reshape(-1).tolist():
            pieces.append(wire.header(_STRINGS, len(element)))
            pieces.append(element)
        return pieces
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    content = np.asarray(array, order="C").reshape(-1).view(np.uint8)
    pieces.append(wire.header(_CONTENT, content.nbytes))
    pieces.append(content.data)
    return pieces


def decode(what: str, message: memoryview) -> Array:
    """The array of a TensorProto, in new memory, which the caller may write to.

    Args:
        what: The name of the tensor, for messages.
        message: The serialized TensorProto.

    Raises:
        BackendError: It is no tensor, or one of a dtype that NumPy does not have.
    """
    data_type = 0
    shape: tuple[int, ...] = ()
    content: memoryview | None = None
    raw: dict[int, list[memoryview]] = {}
    strings: list[bytes] = []
    for field, value in wire.fields(message):
        if field == _DTYPE and isinstance(value, int):
            data_type = value
        elif isinstance(value, int):
            continue
        elif field == _SHAPE:
            shape = _shape(what, value)
        elif field == _CONTENT:
            content = value
        elif field == _STRINGS:
            strings.append(bytes(value))
        elif field in _RAW_FIELDS.values():
            raw.setdefault(field, []).append(value)
    name = NAMES.get(data_type)
    if name is None:
        raise BackendError(f"{what}: got TensorFlow's data type {data_type}, which NumPy lacks")
    if name == "bytes":
        return _fill(what, _string_elements(what, content, strings, shape), shape)
    dtype = numpy_dtype(name)
    if content is None and len(parts := raw.get(_RAW_FIELDS.get(name, 0), [])) == 1:
        content = parts[0]
        if len(content) < math.prod(shape) * dtype.itemsize:
            content = None  # the elements were omitted
    if content is not None:
        # In two steps, so that our message reports a wrong length.
        if len(content) != math.prod(shape) * dtype.itemsize:
            raise BackendError(f"{what}: got {len(content)} bytes for {name} {list(shape)}")
        array = _empty(what, shape, dtype)
        array.reshape(-1).view(np.uint8)[:] = np.frombuffer(content, np.uint8)
        return array
    return _fill(what, _typed_elements(name, message), shape)


def _shape(what: str, message: memoryview) -> tuple[int, ...]:
    sizes = []
    for field, value in wire.fields(message):
        if field == _UNKNOWN_RANK and value:
            raise BackendError(f"{what}: a tensor of unknown rank")
        if field == _DIM and isinstance(value, memoryview):
            sizes.append(next((s for f, s in wire.fields(value) if f == _SIZE), 0))
    if not all(isinstance(size, int) and size < 2**63 for size in sizes):
        raise BackendError(f"{what}: a shape with a size that is not known")
    return tuple(int(size) for size in sizes if isinstance(size, int))


def _typed_elements(name: str, message: memoryview) -> Array:
    """The elements of a numeric field, decoded by the message class."""
    tensor = message_class("tensorflow.TensorProto").FromString(bytes(message))
    values: Any = getattr(tensor, _FIELD_NAMES[name])
    dtype = numpy_dtype(name)
    if name in ("float16", "bfloat16"):
        return np.fromiter(values, np.uint16, len(values)).view(dtype)
    if dtype.kind == "c":
        part = np.dtype(np.float32 if name == "complex64" else np.float64)
        return np.fromiter(values, part, len(values)).view(dtype)
    if dtype.kind in "iu" and dtype.itemsize < 4:
        return np.fromiter(values, np.int32, len(values)).astype(dtype)
    return np.fromiter(values, dtype, len(values))


def _empty(what: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    try:
        return np.empty(shape, dtype)
    except (ValueError, MemoryError) as error:
        # TensorFlow's shapes may be larger than NumPy's; with an axis of 0 they need no memory.
        raise BackendError(f"{what}: NumPy cannot hold shape {list(shape)}: {error}") from error


def _fill(what: str, elements: Array, shape: tuple[int, ...]) -> Array:
    """Elements in their shape; as in TensorFlow, the last one is repeated for omitted ones."""
    filled = _empty(what, shape, elements.dtype)
    if elements.size > filled.size:
        raise BackendError(f"{what}: got {elements.size} elements for shape {list(shape)}")
    flat = filled.reshape(-1)
    flat[: elements.size] = elements
    if elements.size:
        flat[elements.size :] = elements[-1]
    else:
        flat[:] = b"" if elements.dtype == object else np.zeros((), elements.dtype)
    return filled


def _string_elements(
    what: str, content: memoryview | None, strings: list[bytes], shape: tuple[int, ...]
) -> Array:
    """Strings, from their field or from the content: all lengths, then all bytes."""
    if content is None:
        return object_array(strings, (len(strings),))
    lengths, position = [], 0
    for _ in range(math.prod(shape)):
        length, position = wire.read_varint(content, position)
        lengths.append(length)
    if position + sum(lengths) != len(content):
        raise BackendError(f"{what}: got strings of other lengths than they announce")
    elements = []
    for length in lengths:
        elements.append(bytes(content[position : position + length]))
        position += length
    return object_array(elements, (len(elements),))
