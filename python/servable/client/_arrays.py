"""Conversion of callers' values to NumPy arrays.

A value with a dtype (an array, or an object that can be viewed as one) keeps it: if the model wants another, the model
reports that. Plain Python values have no dtype. They get that of the signature, if the conversion changes no value.
"""

from __future__ import annotations

import array as array_module
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from servable.errors import InvalidInputError
from servable.signature import DATA_TYPES

Array = npt.NDArray[Any]

_STRING_KINDS = "OSUT"
_KIND_ORDER = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2, "c": 3}  # V is the kind of bfloat16


def has_dtype(value: object) -> bool:
    """Whether a value has a dtype, so that it can be sent without a signature."""
    return (
        hasattr(value, "__array__")
        or hasattr(value, "__dlpack__")
        or isinstance(value, (str, bytes, memoryview, array_module.array))
    )


def to_array(what: str, value: object, dtype: str | None = None) -> Array:
    """Convert a caller's value to an array; an array is passed through without a copy.

    Args:
        what: The name of the tensor in messages: `input "x" of half_plus_two`.
        value: An array, anything with `__array__` or DLPack, or plain Python values in lists.
        dtype: The dtype of the signature, by the names of `servable.signature`; None if unknown.

    Returns:
        An array of a dtype that TensorFlow has. Strings are arrays of dtype `object` that hold `bytes`.

    Raises:
        InvalidInputError: The value is no such array, or its dtype is not that of the signature.
    """
    found = _convert(what, value)
    if found.dtype.kind in _STRING_KINDS:
        found = _strings(what, found)
    if not has_dtype(value) and dtype is not None:
        found = _adopt(what, found, dtype)
    name = dtype_name(found)
    if name not in DATA_TYPES:
        raise InvalidInputError(f"{what}: got dtype {name}, want one of {', '.join(DATA_TYPES)}")
    if dtype is not None and name != dtype:
        raise InvalidInputError(f"{what}: got dtype {name}, want {dtype}")
    return found


def dtype_name(array: Array) -> str:
    """The name of an array's dtype in signatures; strings are `bytes`."""
    return "bytes" if array.dtype.kind in _STRING_KINDS else array.dtype.name


def numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy's dtype for a name of `servable.signature`.

    Raises:
        ImportError: The dtype is bfloat16, and `ml_dtypes` is not installed.
    """
    if name == "bytes":
        return np.dtype(object)
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError as error:
            raise ImportError(
                "bfloat16 needs the package ml_dtypes; install it with `pip install ml_dtypes`"
            ) from error
        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(name)


def object_array(elements: Sequence[object], shape: Sequence[int]) -> Array:
    """An array of Python objects; NumPy does not inspect them."""
    flat = np.empty(len(elements), object)
    flat[:] = elements
    return flat.reshape(tuple(shape))


def _convert(what: str, value: object) -> Array:
    try:
        if isinstance(value, (str, bytes)):
            return object_array([value], ())
        if hasattr(value, "__array__") or not hasattr(value, "__dlpack__"):
            # NumPy's string dtypes strip trailing zero bytes, and accept numbers as text.
            return np.array(value, object) if _holds_strings(value) else np.asarray(value)
        return np.from_dlpack(value)
    except (TypeError, ValueError, RuntimeError, BufferError, OverflowError) as error:
        kind = type(value).__name__
        raise InvalidInputError(f"{what}: cannot make an array of this {kind}: {error}") from error


def _holds_strings(value: object) -> bool:
    """Whether any value in nested lists is a string."""
    if isinstance(value, (list, tuple)):
        return any(map(_holds_strings, value))
    return isinstance(value, (str, bytes))


def _strings(what: str, array: Array) -> Array:
    if array.dtype.kind == "O" and all(type(element) is bytes for element in array.flat):
        return array
    return object_array([_encoded(what, e) for e in array.reshape(-1).tolist()], array.shape)


def _encoded(what: str, element: object) -> bytes:
    if isinstance(element, bytes):
        return element
    if isinstance(element, str):
        return element.encode()
    kind = type(element).__name__
    hint = " (are the lists of equal length?)" if isinstance(element, (list, tuple)) else ""
    raise InvalidInputError(f"{what}: got an element of type {kind}, want bytes or str{hint}")


def _adopt(what: str, array: Array, dtype: str) -> Array:
    """Convert plain Python values to the dtype of the signature; refuse if a value would change."""
    wanted = numpy_dtype(dtype)
    if array.dtype == wanted:
        return array
    if array.size == 0:
        return array.astype(wanted)
    found_order = _KIND_ORDER.get(array.dtype.kind)
    wanted_order = _KIND_ORDER.get(wanted.kind)
    if found_order is None or wanted_order is None or found_order > wanted_order:
        raise InvalidInputError(f"{what}: got dtype {dtype_name(array)}, want {dtype}")
    if wanted.kind == "b" and array.dtype.kind != "b":
        raise InvalidInputError(f"{what}: got dtype {array.dtype.name}, want {dtype}")
    if wanted.kind in "iu" and array.dtype.kind in "iu":
        limits = np.iinfo(wanted)
        for extreme in (int(array.min()), int(array.max())):
            if not limits.min <= extreme <= limits.max:
                raise InvalidInputError(
                    f"{what}: got {extreme}, want {dtype}, {limits.min} to {limits.max}"
                )
    with np.errstate(over="ignore"):  # out of the range of a float becomes infinite, as in JSON
        return array.astype(wanted)
