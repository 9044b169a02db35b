"""Configurations of servers with TensorFlow Lite models."""

from __future__ import annotations

from pathlib import Path

from support import models

SCRIPT = models.ROOT / "tests/testdata/convert_tflite_models.py"


def entry(name: str, base_path: Path, options: str = "", more: str = "") -> str:
    """The configuration of a model, with the text of its `servable_options`, and more fields."""
    text = f"servable_options {{ {options} }} " if options else ""
    return f'config {{ name: "{name}" base_path: "{base_path}" model_platform: "tflite" {text}{more}}}\n'


def write_config(file: Path, *entries: str) -> str:
    """Write a file of models, and return the flag for it."""
    file.write_text(config_list(*entries))
    return f"--model_config_file={file}"


def config_list(*entries: str) -> str:
    """The text of a file of models."""
    return "model_config_list {\n" + "".join(entries) + "}\n"


def hostile(model: bytes) -> bytes:
    """The model without an input of its addition, which ends the process that loads it."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    contents = schema.ModelT.InitFromPackedBuf(model)
    graph = contents.subgraphs[0]
    codes = [code.builtinCode for code in contents.operatorCodes]
    addition = next(each for each in graph.operators if codes[each.opcodeIndex] == 0)
    addition.inputs = [-1, *addition.inputs[1:]]
    builder = flatbuffers.Builder(len(model))
    builder.Finish(contents.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
