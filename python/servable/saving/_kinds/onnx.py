"""ONNX: a `ModelProto` as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from servable.errors import SaveError
from servable.saving._conversion import Conversion, required
from servable.saving._example import Example, array_of
from servable.saving._onnx_graph import OnnxGraph


def convert(model: Any, example: Example, directory: Path) -> Conversion:
    """Write a model; the original is what the Python package of ONNX Runtime answers."""
    onnx = required("onnx", "'onnx'")
    if not isinstance(model, onnx.ModelProto):
        raise SaveError(f"got a {type(model).__name__} of ONNX, want a ModelProto")
    graph = OnnxGraph(model)
    graph.write(directory)
    inputs = cast_inputs(onnx, model, example.named(graph.input_names()))
    return Conversion(
        kind="onnx",
        platform="onnx",
        inputs=inputs,
        expected=_answers(str(directory / "model.onnx"), inputs),
        libraries=("onnx", "onnxruntime"),
    )


def cast_inputs(onnx: Any, model: Any, inputs: Any) -> dict[str, Any]:
    """The example with the dtypes of the graph.

    Raises:
        SaveError: It has other inputs.
    """
    cast = {}
    for each in model.graph.input:
        if each.name not in inputs:
            continue
        array, kind = inputs[each.name], each.type.tensor_type.elem_type
        wanted = onnx.helper.tensor_dtype_to_np_dtype(kind) if kind else array.dtype
        cast[each.name] = array.astype(wanted) if array.dtype != object else array
    missing = set(inputs) - set(cast)
    if missing:
        raise SaveError(f"example: the graph has no inputs {', '.join(sorted(missing))}")
    return cast


def _answers(file: str, inputs: dict[str, Any]) -> dict[str, Any]:
    runtime = required("onnxruntime", "onnx")
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    text = {
        name: np.array([each.decode() for each in array.ravel()], object).reshape(array.shape)
        if array.dtype == object
        else array
        for name, array in inputs.items()
    }
    names = [each.name for each in session.get_outputs()]
    outputs = session.run(names, text)
    return {name: array_of(value, name) for name, value in zip(names, outputs, strict=True)}
