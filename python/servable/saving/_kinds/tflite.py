"""TFLite: the bytes of a model as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from servable.errors import SaveError
from servable.saving._conversion import Conversion, required
from servable.saving._example import Example, array_of

MODEL_FILE = "model.tflite"
_IDENTIFIER = b"TFL3"


def convert(model: Any, example: Example, directory: Path) -> Conversion:
    """Write a model; the original is what the Python package of LiteRT answers."""
    data = bytes(model)
    if data[4:8] != _IDENTIFIER:
        raise SaveError(f"got {len(data)} bytes that are no TFLite model, want one")
    (directory / MODEL_FILE).write_bytes(data)
    inputs, expected = _answers(data, example)
    return Conversion(
        kind="tflite",
        platform="tflite",
        inputs=inputs,
        expected=expected,
        libraries=("ai-edge-litert",),
    )


def _answers(data: bytes, example: Example) -> tuple[dict[str, Any], dict[str, Any]]:
    litert = required("ai_edge_litert.interpreter", "tflite")
    interpreter = litert.Interpreter(model_content=data)
    signatures = interpreter.get_signature_list()
    if signatures:
        name = "serving_default" if "serving_default" in signatures else next(iter(signatures))
        runner = interpreter.get_signature_runner(name)
        details = runner.get_input_details()
        named = example.named(tuple(details))
        inputs = {each: named[each].astype(details[each]["dtype"]) for each in details}
        return inputs, {each: array_of(v, each) for each, v in runner(**inputs).items()}
    details = {each["name"]: each for each in interpreter.get_input_details()}
    named = example.named(tuple(details))
    inputs = {each: named[each].astype(details[each]["dtype"]) for each in details}
    for each, array in inputs.items():
        interpreter.resize_tensor_input(details[each]["index"], array.shape)
    interpreter.allocate_tensors()
    for each, array in inputs.items():
        interpreter.set_tensor(details[each]["index"], array)
    interpreter.invoke()
    outputs = {
        each["name"]: array_of(interpreter.get_tensor(each["index"]), each["name"])
        for each in interpreter.get_output_details()
    }
    return inputs, outputs
