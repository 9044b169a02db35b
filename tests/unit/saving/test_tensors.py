"""Arrays survive `servable.json` unchanged."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from servable.errors import LoadError
from servable.saving._tensors import from_json, small_parts, to_json

ARRAYS = [
    *(np.array([[0, 1], [2, 3]], name) for name in "bool int8 uint16 int64 uint64".split()),
    np.array([2**63 + 1], "uint64"),
    np.array([0.1, np.inf, -np.inf, np.nan, -0.0, 1e-45], "float32"),
    np.array([0.1, 1e308, 5e-324], "float64"),
    np.array([0.1, 65504], "float16"),
    np.array([0.1, 3e38], ml_dtypes.bfloat16),
    np.array([0.1 + 2j, np.inf], "complex64"),
    np.array([[b"a", "é".encode()], [b"\xff", b""]], object),
    np.zeros((0, 3), "float32"),
    np.zeros((2, 0), object),
    np.array(1.5),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}-{array.shape}")
def test_an_array_is_read_as_it_was_written(array: Any) -> None:
    read = from_json(json.loads(json.dumps(to_json({"x": array}))), "place")["x"]
    assert read.dtype == array.dtype
    assert read.shape == array.shape
    if array.dtype == object:
        assert read.tolist() == array.tolist()
    else:
        assert read.tobytes() == array.tobytes()


def test_floats_have_as_few_digits_as_they_need() -> None:
    assert to_json({"x": np.array([0.1], "float32")})["x"]["values"] == [0.1]


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {"x": 1},
        {"x": {"dtype": "float32", "shape": [2]}},
        {"x": {"dtype": "float32", "shape": [3], "values": [1]}},
        {"x": {"dtype": "wrong", "shape": [1], "values": [1]}},
        {"x": {"dtype": "uint8", "shape": [1], "values": [256]}},
        {"x": {"dtype": "bytes", "shape": [1], "values": [1]}},
    ],
)
def test_damaged_arrays_are_refused(document: Any) -> None:
    with pytest.raises(LoadError, match="place: got no arrays"):
        from_json(document, "place")


def test_a_few_rows_are_kept() -> None:
    inputs, outputs = {"x": np.arange(100).reshape(20, 5)}, {"y": np.arange(20)}
    (some, _), (one, _), (everything, _) = small_parts(inputs, outputs)
    assert [part["x"].shape[0] for part in (some, one, everything)] == [8, 1, 20]


def test_of_arrays_without_common_rows_all_or_nothing_is_kept() -> None:
    assert len(small_parts({"x": np.zeros(3)}, {"y": np.zeros(())})) == 1
    assert small_parts({"x": np.zeros(1 << 16)}, {"y": np.zeros(())}) == []


def test_large_rows_are_not_kept() -> None:
    parts = small_parts({"x": np.zeros((4, 30_000))}, {"y": np.zeros(4)})
    assert [part["x"].shape[0] for part, _ in parts] == [1]
