"""Functions of arrays become model files that need nothing of the process that saved them."""

from __future__ import annotations

import math
from collections.abc import Callable
from math import erf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy import exp as exponential

from servable.errors import SaveError
from servable.loaders._python_model import load_python_model
from servable.saving._example import Example
from servable.saving._kinds.python import convert
from servable.signature import Signature, TensorSpec, serves
from support import models as support_models

WEIGHTS = np.array([[1.0, 2.0], [3.0, 4.0]])
OFFSET = -0.5
NAMES = {"a": [1, (2.5, None)]}
STATE = SimpleNamespace(n=1)
X = np.arange(6, dtype="float32").reshape(3, 2)


def logistic(x: NotImported) -> Any:  # type: ignore[name-defined]  # noqa: F821 - annotations are not written
    return 1 / (1 + exponential(-x))


def uses_everything(x: np.ndarray, factor: float = OFFSET) -> Any:
    """Uses arrays, constants, functions, modules and builtins."""
    assert NAMES["a"][1] == (2.5, None)

    def inner(y: Any) -> Any:
        return [erf(float(each)) for each in y]

    inner_result = np.array([sum(inner(row)) for row in x])
    return logistic(x @ WEIGHTS + factor).sum(axis=1) + inner_result + math.pi


def recursive(x: Any) -> Any:
    return x if len(x) < 10_000 else recursive(x[1:])


def mapping(inputs: Any) -> Any:
    return {"sum": inputs["a"] + inputs["b"]}


def arguments(a: Any, b: Any) -> Any:
    return a - b, a + b


@serves(inputs={"x": TensorSpec("float32", [None, 2])}, outputs={"y": TensorSpec("float32")})
def declared(inputs: Any) -> Any:
    return {"y": inputs["x"].sum(axis=1)}


def of_closure(factor: float, table: Any) -> Callable[..., Any]:
    def scaled(x: Any) -> Any:
        return x * factor + table

    return scaled


def uses_state(x: Any) -> Any:
    return x + STATE.n


def uses_tests(x: Any) -> Any:
    return x + len(support_models.ROOT.parts)


def uses_undefined(x: Any) -> Any:
    return x if len(x) else undefined  # type: ignore[name-defined]  # noqa: F821


def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


@decorate
def decorated(x: Any) -> Any:
    return x


def saved(
    function: Callable[..., Any],
    example: Any,
    directory: Path,
    signature: Signature | None = None,
) -> tuple[dict[str, Any], dict[str, Any], Signature]:
    """What the written model answers, what the function did, and the signature."""
    conversion = convert(function, Example.of(example, signature), directory)
    model = load_python_model(directory)
    got = model.run("serving_default", conversion.inputs, math.inf)
    return dict(got), dict(conversion.expected), model.signatures["serving_default"]


def test_what_a_function_uses_is_written_with_it(tmp_path: Path) -> None:
    got, expected, signature = saved(uses_everything, X, tmp_path)
    assert got["output_0"].tolist() == expected["output_0"].tolist()
    assert signature.inputs == {"x": TensorSpec("float32", [None, 2])}
    assert signature.outputs == {"output_0": TensorSpec("float64", [None])}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["WEIGHTS.npy", "model.py"]


@pytest.mark.parametrize(
    ("function", "example", "inputs", "outputs"),
    [
        (recursive, X, ["x"], ["output_0"]),
        (of_closure(2.0, WEIGHTS[0]), X, ["x"], ["output_0"]),
        (mapping, {"a": X, "b": X}, ["a", "b"], ["sum"]),
        (arguments, {"a": X, "b": X}, ["a", "b"], ["output_0", "output_1"]),
        (arguments, (X, X), ["a", "b"], ["output_0", "output_1"]),
        (declared, {"x": X}, ["x"], ["y"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_inputs_and_outputs_have_names(
    function: Callable[..., Any],
    example: Any,
    inputs: list[str],
    outputs: list[str],
    tmp_path: Path,
) -> None:
    got, expected, signature = saved(function, example, tmp_path)
    assert (list(signature.inputs), list(signature.outputs)) == (inputs, outputs)
    assert list(got) == outputs
    for name, value in expected.items():
        assert np.array_equal(got[name], value)


def test_a_signature_names_them_and_decides_their_dtypes(tmp_path: Path) -> None:
    spec = TensorSpec("float64", [None, 2])
    signature = Signature({"low": spec, "high": spec}, {"less": spec, "more": spec})
    got, expected, written = saved(arguments, (X, X), tmp_path, signature)
    assert written == signature
    assert got["less"].dtype == expected["less"].dtype == "float64"


def test_text_is_bytes(tmp_path: Path) -> None:
    def joined(text: Any) -> Any:
        return np.array([each + b"!" for each in text], object)

    got, _, signature = saved(joined, ["a", "é"], tmp_path)
    assert got["output_0"].tolist() == [b"a!", "é!".encode()]
    assert signature.inputs["text"].dtype == "bytes"


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (lambda x: x, "got a lambda"),
        (np.sum, "whose source cannot be written"),
        (uses_state, "uses_state uses STATE, a types.SimpleNamespace, which cannot be written"),
        (uses_tests, r"uses support_models, the module support.models in .*, which no server has"),
        (uses_undefined, "uses_undefined uses undefined, which is not defined"),
        (decorated, "has the decorator @decorate, which is not written"),
    ],
)
def test_what_cannot_be_written_is_named(
    function: Callable[..., Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(SaveError, match=complaint):
        convert(function, Example.of(X), tmp_path)
