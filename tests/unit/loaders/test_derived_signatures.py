"""Signatures that are found by running a function."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from servable.errors import LoadError
from servable.loaders._derived_signatures import derived_signature, specs_of
from servable.signature import TensorSpec


def test_inputs_are_read_in_the_notation_of_messages() -> None:
    assert specs_of("x: float32 [?, 4], mask: bool [?],n:int64 [3]") == {
        "x": TensorSpec("float32", [None, 4]),
        "mask": TensorSpec("bool", [None]),
        "n": TensorSpec("int64", [3]),
    }
    assert specs_of("") == {}


def test_axes_that_change_with_the_inputs_are_free() -> None:
    def run(inputs: Any) -> Any:
        x, text = inputs["x"], inputs["text"]
        assert text.tolist() == [b""] * len(x)
        return {"sums": x.sum(axis=1), "pairs": x[:, :, None] @ x[:, None], "text": text}

    inputs = specs_of("x: float32 [?, 4], text: bytes [?]")
    assert derived_signature(inputs, run).outputs == {
        "sums": TensorSpec("float32", [None]),
        "pairs": TensorSpec("float32", [None, 4, 4]),
        "text": TensorSpec("bytes", [None]),
    }


@pytest.mark.parametrize(
    ("run", "complaint"),
    [
        (lambda i: {"y": np.zeros([1] * len(i["x"]))}, 'output "y" depends on the sizes'),
        (lambda i: {f"y{len(i['x'])}": i["x"]}, 'output "y2" depends on the sizes'),
        (lambda i: {"y": i["x"].astype("datetime64[s]")}, 'output "y": got dtype datetime64'),
    ],
)
def test_outputs_that_cannot_be_described_are_refused(run: Any, complaint: str) -> None:
    with pytest.raises(LoadError, match=complaint):
        derived_signature(specs_of("x: float32 [?]"), run)
