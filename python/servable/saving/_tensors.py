"""Arrays in `servable.json`, as nested lists with their dtype."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from servable.errors import Code, LoadError

_ROWS_TO_KEEP = 8
_ELEMENTS_TO_KEEP = 1 << 16

Arrays = Mapping[str, Any]


def small_parts(inputs: Arrays, outputs: Arrays) -> list[tuple[Arrays, Arrays]]:
    """The parts of an example that are small enough to keep: some rows, one row, or all of it."""
    parts = [_first_rows(inputs, outputs, count) for count in (_ROWS_TO_KEEP, 1)]
    parts.append((inputs, outputs))
    return [part for part in parts if part is not None and _size(*part) <= _ELEMENTS_TO_KEEP]


def _first_rows(inputs: Arrays, outputs: Arrays, count: int) -> tuple[Arrays, Arrays] | None:
    arrays = [*inputs.values(), *outputs.values()]
    lengths = {array.shape[0] if array.ndim else 0 for array in arrays}
    if len(lengths) != 1 or lengths <= {0}:
        return None
    return tuple({name: a[:count] for name, a in part.items()} for part in (inputs, outputs))  # type: ignore[return-value]


def _size(inputs: Arrays, outputs: Arrays) -> int:
    return sum(int(array.size) for array in (*inputs.values(), *outputs.values()))


def to_json(arrays: Arrays) -> Mapping[str, Any]:
    """Describe arrays; text is encoded as in the REST API."""
    return {name: _described(array) for name, array in arrays.items()}


def _described(array: Any) -> Mapping[str, Any]:
    if array.dtype == object:
        dtype, values = "bytes", _text(array.tolist())
    elif array.dtype.kind == "c":
        dtype, values = array.dtype.name, np.stack([array.real, array.imag], -1).tolist()
    else:
        dtype = array.dtype.name
        values = (
            _shortest(array) if dtype in ("float16", "float32", "bfloat16") else array
        ).tolist()
    return {"dtype": dtype, "shape": list(array.shape), "values": values}


def _shortest(array: Any) -> Any:
    """The same numbers with as few digits as their dtype needs."""
    return np.array([float(str(each)) for each in array.ravel()], "float64").reshape(array.shape)


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(each) for each in value]
    try:
        decoded: str = value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}
    return decoded


def from_json(document: Any, place: str) -> Arrays:
    """Read what `to_json` described.

    Raises:
        LoadError: It is damaged.
    """
    try:
        return {name: _array(each) for name, each in document.items()}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise LoadError(
            f"{place}: got no arrays: {type(error).__name__}: {error}",
            code=Code.DATA_LOSS,
            may_pass=False,
        ) from error


def _array(document: Any) -> Any:
    dtype, shape, values = document["dtype"], document["shape"], document["values"]
    if dtype == "bytes":
        flat: list[bytes] = []
        _flatten(values, flat)
        array = np.empty(len(flat), object)
        array[:] = flat
        return array.reshape(shape)
    if dtype == "bfloat16":
        import ml_dtypes

        return np.array(values, ml_dtypes.bfloat16).reshape(shape)
    if dtype.startswith("complex"):
        parts = np.array(values, "float64").reshape([*shape, 2])
        return (parts[..., 0] + 1j * parts[..., 1]).astype(dtype)
    return np.array(values, dtype).reshape(shape)


def _flatten(value: Any, into: list[bytes]) -> None:
    if isinstance(value, list):
        for each in value:
            _flatten(each, into)
    else:
        into.append(base64.b64decode(value["b64"]) if isinstance(value, dict) else value.encode())
