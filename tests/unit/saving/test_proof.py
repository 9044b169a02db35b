"""Comparisons of outputs with those of the original."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from servable.errors import SaveError
from servable.saving._proof import largest_differences


def difference(expected: Any, got: Any, tolerance: float = 0.01) -> float:
    return largest_differences({"y": expected}, {"y": got, "more": got}, tolerance)["y"]


def test_the_tolerance_is_absolute_below_1_and_relative_above() -> None:
    expected, got = np.array([0.5, 1000.0]), np.array([0.509, 1009.0])
    assert difference(expected, got) == pytest.approx(9)
    with pytest.raises(SaveError):
        difference(expected, np.array([0.511, 1000.0]))
    with pytest.raises(SaveError):
        difference(expected, np.array([0.5, 1011.0]))


def test_equal_special_values_do_not_differ() -> None:
    values = np.array([math.nan, math.inf, -math.inf, 0.0])
    assert difference(values, values.astype("float32")) == 0


@pytest.mark.parametrize("got", [math.nan, math.inf, -math.inf])
def test_other_special_values_differ(got: float) -> None:
    with pytest.raises(SaveError, match="differs on 1 of 1 rows"):
        difference(np.array([1.0]), np.array([got]))
    with pytest.raises(SaveError, match="differs on 1 of 1 rows"):
        difference(np.array([got]), np.array([1.0]))


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (np.array([2**62]), np.array([2**62 + 1])),
        (np.array([True]), np.array([False])),
        (np.array(["a"]), np.array([b"b"], object)),
    ],
)
def test_integers_truth_values_and_text_are_equal_or_not(expected: Any, got: Any) -> None:
    assert difference(expected, expected) == 0
    with pytest.raises(SaveError, match="differs on 1 of 1 rows"):
        difference(expected, got)


def test_text_and_its_bytes_are_equal() -> None:
    assert difference(np.array(["é"]), np.array(["é".encode()], object)) == 0


def test_the_first_rows_that_differ_are_shown() -> None:
    expected = np.zeros((10, 2))
    got = expected.copy()
    got[3:, 1] = np.arange(7) + 0.5
    with pytest.raises(SaveError) as raised:
        difference(expected, got)
    first, *rows, last = raised.value.message.splitlines()
    assert first == 'output "y" differs on 7 of 10 rows, with a tolerance of 0.01:'
    assert rows[0] == "  row 3: expected [0, 0], got [0, 0.5], difference 0.5"
    assert len(rows) == 5
    assert last == "  and 2 more"


def test_long_rows_are_cut() -> None:
    with pytest.raises(SaveError, match=r"expected \[0(, 0){9}, …\], got"):
        difference(np.zeros((1, 100)), np.ones((1, 100)))


@pytest.mark.parametrize(
    ("got", "complaint"),
    [
        ({"y": np.zeros((2, 3))}, r'output "y": got shape \[2, 3\], want \[2\]'),
        ({"z": np.zeros(2)}, 'got the outputs z, want "y"'),
        ({"y": np.array([b"a", b"b"], object)}, 'output "y": got object, want float64'),
    ],
)
def test_outputs_of_another_form_differ(got: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SaveError, match=complaint):
        largest_differences({"y": np.zeros(2)}, got, 1.0)
