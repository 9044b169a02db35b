"""Compares the outputs of a saved model with those of the original."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from servable.errors import SaveError

_ROWS_TO_SHOW = 5
_ELEMENTS_TO_SHOW = 10


def largest_differences(
    expected: Mapping[str, Any], got: Mapping[str, Any], tolerance: float
) -> Mapping[str, float]:
    """Compare outputs.

    Numbers may differ by `tolerance`, and where the expected one is larger than 1, by that part of it. Integers, truth
    values and text must be equal. Two NaNs are.

    Args:
        expected: The outputs of the original.
        got: The outputs of the saved model; further ones are allowed.
        tolerance: How far numbers may differ.

    Returns:
        The largest difference by output; 0 where all are equal.

    Raises:
        SaveError: An output is missing or differs. The message shows the first rows that do.
    """
    found = {}
    for name, wanted in expected.items():
        if name not in got:
            raise SaveError(f'got the outputs {", ".join(sorted(got))}, want "{name}"')
        found[name] = _compare(name, _plain(wanted), _plain(got[name]), tolerance)
    return found


def _plain(value: Any) -> Any:
    """An array in which text is `bytes`, and bfloat16 is a dtype that NumPy calculates with."""
    array = np.asarray(value)
    if array.dtype.kind in "OSU":
        text = [each.encode() if isinstance(each, str) else each for each in array.ravel().tolist()]
        plain = np.empty(len(text), object)
        plain[:] = text
        return plain.reshape(array.shape)
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def _compare(name: str, expected: Any, got: Any, tolerance: float) -> float:
    if expected.shape != got.shape:
        raise SaveError(
            f'output "{name}": got shape {list(got.shape)}, want {list(expected.shape)}'
        )
    if expected.dtype.kind in "fc" or got.dtype.kind in "fc":
        if object in (expected.dtype, got.dtype):
            raise SaveError(f'output "{name}": got {got.dtype}, want {expected.dtype}')
        difference = _difference(expected, got)
        limit = tolerance * np.maximum(1.0, np.abs(np.nan_to_num(expected)))
        differs = difference > limit
    else:
        differs = expected != got
        difference = differs.astype("float64")
    if differs.any():
        raise SaveError(_table(name, expected, got, difference, differs, tolerance))
    return float(difference.max(initial=0.0))


def _difference(expected: Any, got: Any) -> Any:
    is_complex = "c" in (expected.dtype.kind, got.dtype.kind)
    wide = "complex128" if is_complex else "float64"
    expected, got = expected.astype(wide), got.astype(wide)
    with np.errstate(all="ignore"):
        difference = np.abs(expected - got)
        is_equal = (expected == got) | (np.isnan(expected) & np.isnan(got))
    return np.where(is_equal, 0.0, np.where(np.isnan(difference), math.inf, difference))


def _table(
    name: str, expected: Any, got: Any, difference: Any, differs: Any, tolerance: float
) -> str:
    if expected.ndim == 0:
        expected, got, difference, differs = (a[None] for a in (expected, got, difference, differs))
    rows = np.flatnonzero(differs.reshape(len(differs), -1).any(axis=1))
    lines = [
        f'output "{name}" differs on {len(rows)} of {len(expected)} rows, with a tolerance of {tolerance:g}:'
    ]
    for row in rows[:_ROWS_TO_SHOW].tolist():
        largest = float(np.max(difference[row]))
        amount = "" if expected.dtype == object else f", difference {largest:.3g}"
        lines.append(
            f"  row {row}: expected {_shown(expected[row])}, got {_shown(got[row])}{amount}"
        )
    if len(rows) > _ROWS_TO_SHOW:
        lines.append(f"  and {len(rows) - _ROWS_TO_SHOW} more")
    return "\n".join(lines)


def _shown(row: Any) -> str:
    flat = np.asarray(row, dtype=None if not isinstance(row, bytes) else object).ravel()
    elements = [
        f"{each:.7g}" if isinstance(each, float) else str(each)
        for each in flat[:_ELEMENTS_TO_SHOW].tolist()
    ]
    text = ", ".join(elements) + (", …" if flat.size > _ELEMENTS_TO_SHOW else "")
    return text if np.ndim(row) == 0 else f"[{text}]"
