"""The example of a model: the inputs on which a conversion is checked, and whose dtypes and shapes it gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from servable.errors import SaveError
from servable.signature import DATA_TYPES, Signature, TensorSpec


@dataclass(frozen=True)
class Example:
    """Inputs of a model.

    Attributes:
        given: What the caller passed, for the original model.
        arrays: One array for each input, in order.
        names: Their names; `None` if neither the example nor a signature names them.
        is_table: Whether it is a data frame, with one array of one axis for each column.
        signature: The signature that the caller wants, if any.
    """

    given: Any
    arrays: tuple[Any, ...]
    names: tuple[str, ...] | None
    is_table: bool = False
    signature: Signature | None = None

    @staticmethod
    def of(given: Any, signature: Signature | None = None) -> Example:
        """Read an example.

        Args:
            given: An array, a tuple of arrays, arrays by name, or a data frame.
            signature: Names the inputs of a tuple in order, and overrides dtypes and shapes.

        Raises:
            SaveError: It is none of these, or does not fit the signature.
        """
        is_table = is_data_frame(given)
        names: tuple[str, ...] | None = None
        if is_table:
            names = tuple(map(str, given.columns))
            arrays = [array_of(given[column], f"column {column}") for column in given.columns]
        elif isinstance(given, Mapping):
            names = tuple(map(str, given))
            arrays = [array_of(value, name) for name, value in given.items()]
        else:
            values = given if isinstance(given, tuple) else (given,)
            arrays = [array_of(value, f"input {n}") for n, value in enumerate(values)]
        if not arrays:
            raise SaveError("example: got no inputs, want at least one")
        if signature is not None:
            names = _names_of(signature, names, len(arrays))
        return Example(given, tuple(arrays), names, is_table, signature)

    def named(self, defaults: Sequence[str]) -> Mapping[str, Any]:
        """The arrays by name.

        Args:
            defaults: The names for an example without names.

        Raises:
            SaveError: There are more or fewer arrays than names.
        """
        names = defaults if self.names is None else self.names
        if len(names) != len(self.arrays):
            wanted = ", ".join(names)
            raise SaveError(f"example: got {len(self.arrays)} inputs, want {len(names)} ({wanted})")
        return dict(zip(names, self.arrays, strict=True))

    def specs(self, defaults: Sequence[str]) -> Mapping[str, TensorSpec]:
        """The dtypes and shapes: those of the signature, or those of the arrays with a free batch axis."""
        arrays = self.named(defaults)
        if self.signature is not None:
            return {name: self.signature.inputs[name] for name in arrays}
        return {name: spec_of(array, name) for name, array in arrays.items()}

    def matrix(self) -> Any:
        """The example as one matrix of numbers, a row for each instance.

        Raises:
            SaveError: It is none.
        """
        if self.is_table:
            columns = self.arrays
            bad = [
                name for name, a in zip(self.names or (), columns, strict=True) if not _is_number(a)
            ]
            if bad:
                raise SaveError(f"example: got no numbers in the columns {', '.join(bad)}")
            return np.stack([np.asarray(column) for column in columns], axis=1)
        if len(self.arrays) != 1 or self.arrays[0].ndim != 2 or not _is_number(self.arrays[0]):
            found = ", ".join(str(spec_text(array)) for array in self.arrays)
            raise SaveError(f"example: got {found}, want one matrix of numbers, or a data frame")
        return self.arrays[0]


def is_data_frame(value: Any) -> bool:
    """Whether a value is a data frame, of pandas or of a library with its interface."""
    return hasattr(value, "columns") and hasattr(value, "to_numpy")


def array_of(value: Any, what: str) -> Any:
    """A value as an array of a dtype that can be served; text becomes an object array of `bytes`.

    Raises:
        SaveError: It is no such array.
    """
    if hasattr(value, "tocsr"):
        raise SaveError(f"{what}: got a sparse matrix, want an array: pass `.toarray()`")
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise SaveError(f"{what}: got {type(value).__name__}, want an array: {error}") from error
    if array.dtype.kind in "OSU":
        elements = [_bytes_of(element, what) for element in array.reshape(-1).tolist()]
        text = np.empty(len(elements), object)
        text[:] = elements
        return text.reshape(array.shape)
    if array.dtype.name not in DATA_TYPES:
        raise SaveError(f"{what}: got dtype {array.dtype}, want one of {', '.join(DATA_TYPES)}")
    return array


def _bytes_of(element: Any, what: str) -> bytes:
    if isinstance(element, bytes):
        return element
    if isinstance(element, str):
        return element.encode()
    raise SaveError(
        f"{what}: got an element of type {type(element).__name__}, want numbers or text"
    )


def spec_of(array: Any, what: str) -> TensorSpec:
    """The dtype and shape of an array, with axis 0 free."""
    dtype = "bytes" if array.dtype == object else array.dtype.name
    if array.ndim == 0:
        raise SaveError(f"{what}: got a scalar, want an array whose axis 0 is the batch")
    return TensorSpec(dtype, [None, *array.shape[1:]])


def spec_text(array: Any) -> str:
    """For example `float32 [20, 4]`."""
    dtype = "bytes" if array.dtype == object else array.dtype.name
    return f"{dtype} [{', '.join(map(str, array.shape))}]"


def _is_number(array: Any) -> bool:
    return array.dtype.kind in "biuf"


def _names_of(signature: Signature, given: tuple[str, ...] | None, count: int) -> tuple[str, ...]:
    wanted = tuple(signature.inputs)
    if given is not None and set(given) != set(wanted):
        raise SaveError(
            f"example: got the inputs {', '.join(given)}, want those of the signature: {', '.join(wanted)}"
        )
    if count != len(wanted):
        raise SaveError(f"example: got {count} inputs, want {len(wanted)} as the signature has")
    return given or wanted
