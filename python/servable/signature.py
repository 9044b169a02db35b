"""Signatures: the inputs and outputs that Python code declares.

```python
from servable.signature import TensorSpec, serves

@serves(inputs={"x": TensorSpec("float32", [None])}, outputs={"y": TensorSpec("float32", [None])})
def half_plus_two(inputs):
    return {"y": inputs["x"] * 0.5 + 2}
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

__all__ = [
    "DATA_TYPES",
    "DEFAULT_SIGNATURE",
    "SPARSE_PARTS",
    "Signature",
    "TensorSpec",
    "declared_signature",
    "kind_of_parts",
    "part_names",
    "serves",
]

DEFAULT_SIGNATURE = "serving_default"
"""The signature of requests that name none."""

DATA_TYPES: Mapping[str, int] = MappingProxyType(
    {
        "float32": 1,
        "float64": 2,
        "int32": 3,
        "uint8": 4,
        "int16": 5,
        "int8": 6,
        "bytes": 7,
        "complex64": 8,
        "int64": 9,
        "bool": 10,
        "bfloat16": 14,
        "uint16": 17,
        "complex128": 18,
        "float16": 19,
        "uint32": 22,
        "uint64": 23,
    }
)
"""The numbers of `tensorflow.DataType` by NumPy's names; `bytes` is `DT_STRING`."""

SPARSE_PARTS = ("values", "indices", "dense_shape")
"""The tensors of a `tensorflow.TensorInfo.CooSparse`, each of which is a separate input or output."""

_SIGNATURE_ATTRIBUTE = "__servable_signature__"
_REPEATABLE_ATTRIBUTE = "repeatable"

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, init=False)
class TensorSpec:
    """A tensor's dtype and shape.

    Attributes:
        dtype: NumPy's name, such as `float32`. Strings are `bytes`: arrays of dtype `object` with elements of `bytes`.
        shape: The sizes of the axes; `None` for a variable size. Axis 0 is the batch, and usually variable. A shape of
            `None` allows any number of axes.
    """

    dtype: str
    shape: Sequence[int | None] | None

    def __init__(self, dtype: object, shape: Sequence[int | None] | None = None) -> None:
        """Normalise both fields.

        Args:
            dtype: A name of `DATA_TYPES`, `string`, or what `numpy.dtype` accepts, such as `numpy.float32` or `float`.
                NumPy's types of strings and objects are `bytes`. `bfloat16` needs the package `ml_dtypes`.
            shape: The sizes of the axes.

        Raises:
            ValueError: The dtype is unknown, or a size is negative.
        """
        object.__setattr__(self, "dtype", _dtype_name(dtype))
        object.__setattr__(self, "shape", None if shape is None else tuple(shape))
        if any(size is not None and size < 0 for size in self.shape or ()):
            raise ValueError(f"got shape {self.shape}, want sizes from 0, or None where free")

    @property
    def data_type(self) -> int:
        """The number of the dtype in `tensorflow.DataType`."""
        return DATA_TYPES[self.dtype]


def _dtype_name(dtype: object) -> str:
    if isinstance(dtype, str) and dtype in DATA_TYPES:
        return dtype
    name = "bytes" if dtype == "string" else _numpy_name(dtype)
    if name is None or name not in DATA_TYPES:
        raise ValueError(f"got dtype {dtype!r}, want one of {', '.join(DATA_TYPES)}")
    return name


def _numpy_name(dtype: object) -> str | None:
    """The name of what `numpy.dtype` accepts; `None` for anything else, and if NumPy is not installed."""
    try:
        import numpy as np
    except ImportError:
        return None
    if dtype is None:  # which NumPy takes for float64
        return None
    try:
        found = np.dtype(dtype)  # type: ignore[call-overload]  # whatever the caller has
    except TypeError:
        return None
    return "bytes" if found.kind in "SUO" else str(found.name)


@dataclass(frozen=True, slots=True)
class Signature:
    """One way to call a servable.

    Attributes:
        inputs: The inputs, by name.
        outputs: The outputs, by name; at least one.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    def __post_init__(self) -> None:
        """Copy both mappings, so that later changes of the originals have no effect.

        Raises:
            ValueError: There is no output.
        """
        object.__setattr__(self, "inputs", dict(self.inputs))
        object.__setattr__(self, "outputs", dict(self.outputs))
        if not self.outputs:
            raise ValueError("a signature needs an output at least")


def serves(
    *,
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
    name: str = DEFAULT_SIGNATURE,
    repeatable: bool = False,
) -> Callable[[_Function], _Function]:
    """Declare that a function of a model file implements a signature.

    Args:
        inputs: The inputs of the function, by name; it gets them as one dictionary of arrays.
        outputs: The outputs of the function, by name, which it returns as one dictionary of arrays.
        name: The name of the signature.
        repeatable: Whether the function has no side effects. The requests of a failed batch are then run again in
            smaller batches, so that only the requests that cause the failure get an error. All functions of a model
            must declare it.
    """

    def declare(function: _Function) -> _Function:
        setattr(function, _SIGNATURE_ATTRIBUTE, (name, Signature(inputs, outputs)))
        if repeatable:
            setattr(function, _REPEATABLE_ATTRIBUTE, True)
        return function

    return declare


def declared_signature(function: object) -> tuple[str, Signature] | None:
    """The name and the signature that `serves` gave to a function; `None` for other functions."""
    declared: tuple[str, Signature] | None = getattr(function, _SIGNATURE_ATTRIBUTE, None)
    return declared


def part_names(type_spec_class: str, count: int) -> list[str]:
    """The suffixes of the names of a composite value's tensors (ragged, sparse and others).

    Args:
        type_spec_class: As `tensorflow.TypeSpecProto` names it, such as `RAGGED_TENSOR_SPEC`.
        count: The number of tensors.
    """
    if type_spec_class == "RAGGED_TENSOR_SPEC":
        splits = count - 1
        names = ["row_splits"] if splits == 1 else [f"row_splits_{n}" for n in range(splits)]
        return ["flat_values", *names][:count]
    if type_spec_class == "SPARSE_TENSOR_SPEC" and count == len(SPARSE_PARTS):
        return ["indices", "values", "dense_shape"]
    return [str(n) for n in range(count)]


def kind_of_parts(type_spec_class: str) -> str:
    """A word for such a composite value."""
    return type_spec_class.lower().removesuffix("_spec").removesuffix("_tensor") or "composite"
