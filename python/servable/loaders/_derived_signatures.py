"""Signatures of functions whose outputs no file describes: found by running them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from servable.errors import Code, LoadError
from servable.signature import DATA_TYPES, Signature, TensorSpec

_INPUT = re.compile(r"\s*([\w.-]+)\s*:\s*(\w+)\s*\[([^\]]*)\]\s*")
_FREE_SIZES = (2, 3)
"""Axes of outputs that change with these sizes of the free axes of inputs are free."""


def specs_of(text: str) -> Mapping[str, TensorSpec]:
    """Read inputs in the notation of messages, such as `x: float32 [?, 4], mask: bool [?, 4]`.

    Raises:
        ValueError: The text is in another notation; the message says what was found and wanted.
    """
    found: dict[str, TensorSpec] = {}
    position = 0
    while position < len(text):
        match = _INPUT.match(text, position)
        if match is None:
            raise ValueError(
                f'got "{text[position:]}", want "NAME: DTYPE [SIZES]", such as "x: float32 [?, 4]"'
            )
        name, dtype, sizes = match.groups()
        if name in found:
            raise ValueError(f'got two inputs "{name}"')
        found[name] = TensorSpec(dtype, [_size(each) for each in sizes.split(",") if each.strip()])
        position = match.end()
        if position < len(text) and text[position] == ",":
            position += 1
    return found


def derived_signature(
    inputs: Mapping[str, TensorSpec], run: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> Signature:
    """The signature of a function, from what it answers to zeros.

    Args:
        inputs: Its inputs, of known rank.
        run: The function of arrays by name.

    Raises:
        LoadError: Its outputs change in dtype or rank, or are none that can be served.
        Exception: Raised by the function.
    """
    first, second = (run(zeros(inputs, size)) for size in _FREE_SIZES)
    outputs = {}
    for name, array in first.items():
        other = second.get(name)
        if other is None or other.dtype != array.dtype or other.ndim != array.ndim:
            raise _unusable(f'output "{name}" depends on the sizes of the inputs')
        dtype = "bytes" if array.dtype.kind in "OSU" else array.dtype.name
        if dtype not in DATA_TYPES:
            raise _unusable(
                f'output "{name}": got dtype {dtype}, want one of {", ".join(DATA_TYPES)}'
            )
        sizes = zip(array.shape, other.shape, strict=True)
        outputs[name] = TensorSpec(dtype, [one if one == two else None for one, two in sizes])
    return Signature(inputs, outputs)


def zeros(inputs: Mapping[str, TensorSpec], free_size: int) -> Mapping[str, Any]:
    """Zeros, or empty text, for each input."""
    import numpy as np

    found = {}
    for name, spec in inputs.items():
        shape = [free_size if size is None else size for size in spec.shape or ()]
        is_text = spec.dtype == "bytes"
        found[name] = np.full(shape, b"", object) if is_text else np.zeros(shape, spec.dtype)
    return found


def _size(text: str) -> int | None:
    text = text.strip()
    if text == "?":
        return None
    if not text.isdecimal():
        raise ValueError(f'got size "{text}", want a number, or ? where free')
    return int(text)


def _unusable(message: str) -> LoadError:
    return LoadError(message, code=Code.INVALID_ARGUMENT, may_pass=False)
