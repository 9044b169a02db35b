"""`MLmodel` is read without MLflow, and without running code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from servable.errors import LoadError
from servable.loaders._mlflow_signature import description_of, read_description
from servable.signature import TensorSpec

FILE = Path("MLmodel")
FLAVOURS = {"python_function": {"loader_module": "mlflow.sklearn"}, "sklearn": {}}
MATRIX = [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 4]}}]


def described(inputs: Any, outputs: Any = MATRIX) -> Any:
    signature = {"inputs": json.dumps(inputs), "outputs": outputs and json.dumps(outputs)}
    return description_of({"flavors": FLAVOURS, "signature": signature}, FILE)


def test_columns_are_inputs_of_their_names() -> None:
    columns = [
        {"type": "double", "name": "age", "required": True},
        {"type": "string", "name": "city"},
        {"type": "binary", "name": "photo"},
        {"type": "long", "name": "id"},
    ]
    found = described(columns, [{"type": "string"}])
    assert found.inputs.specs == {
        "age": TensorSpec("float64", [None]),
        "city": TensorSpec("bytes", [None]),
        "photo": TensorSpec("bytes", [None]),
        "id": TensorSpec("int64", [None]),
    }
    assert (found.inputs.are_columns, found.inputs.text) == (True, {"city"})
    assert found.outputs.specs == {"predictions": TensorSpec("bytes", [None])}


def test_a_tensor_without_a_name_is_called_inputs() -> None:
    found = described(MATRIX, None)
    assert found.inputs.specs == {"inputs": TensorSpec("float64", [None, 4])}
    assert not found.inputs.are_columns
    assert found.outputs is None


@pytest.mark.parametrize(
    ("inputs", "complaint"),
    [
        ([{"type": "datetime", "name": "t"}], "got a column of type datetime, want one of boolean"),
        ([{"type": "array", "name": "a", "items": {}}], "got a column of type array"),
        ([{"type": "long"}, {"type": "long"}], "got 2 fields, some without a name"),
        ([{"type": "long", "name": "a"}] * 2, "got two fields with one name"),
        ([{"type": "tensor", "name": "a"}], "a: got the shape None, want a list of sizes"),
        (
            [{"type": "tensor", "tensor-spec": {"dtype": "float31", "shape": [-1]}}],
            "got dtype 'float31', want one of",
        ),
        ([3], "want a list of columns or tensors"),
        ({}, "want a list of columns or tensors"),
        ([], "got 0 fields"),
    ],
)
def test_signatures_that_cannot_be_served_are_refused(inputs: Any, complaint: str) -> None:
    with pytest.raises(LoadError, match=complaint):
        described(inputs)


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({"flavors": {"onnx": {}}}, "got the flavors onnx, want python_function among them"),
        ({"flavors": FLAVOURS}, "got no signature; log the model again with"),
        ({"flavors": FLAVOURS, "signature": {"inputs": "[{"}}, "got no JSON"),
        ({"flavors": FLAVOURS, "signature": {"inputs": "[" * 100_000}}, "got no JSON"),
        ([], "got list, want a mapping"),
    ],
)
def test_damaged_descriptions_are_refused(document: Any, complaint: str) -> None:
    with pytest.raises(LoadError, match=complaint):
        description_of(document, FILE)


@pytest.mark.parametrize(
    "text", ["a: [", "[" * 50_000, "!!python/object/apply:os.getpid []", "\x00"]
)
def test_what_is_no_plain_yaml_is_refused(text: str, tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(LoadError, match="MLmodel: got no YAML"):
        read_description(tmp_path)


def test_a_missing_description_is_reported(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    with pytest.raises(LoadError, match="MLmodel: No such file"):
        read_description(tmp_path)
