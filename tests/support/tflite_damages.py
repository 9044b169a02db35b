"""Loads damaged TensorFlow Lite models, and runs those that load: `tflite_damages.py ours|bare MODEL FIRST LAST`.

Each number stands for one damage. The number of a damage is printed before it is tried, so that a crash can be
attributed. `bare` uses LiteRT's own Python interface in place of the server's loader.
"""

from __future__ import annotations

import importlib.util
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def damaged(model: bytes, number: int) -> bytes:
    """The model with one damage, the same for the same number."""
    chance = random.Random(number)
    kind = number % 4
    if kind == 0:
        return model[: chance.randrange(len(model))]
    changed = bytearray(model)
    for _ in range(1 if kind == 1 else chance.randrange(1, 9)):
        place = chance.randrange(len(model))
        if kind == 3:
            place = min(place // 4 * 4, len(model) - 4)
            number = chance.choice([-1, 0, 1, 2**31 - 1, -(2**31), chance.randrange(100)])
            changed[place : place + 4] = number.to_bytes(4, "little", signed=True)
        else:
            changed[place] = chance.randrange(256)
    return bytes(changed)


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


def load_ours() -> Callable[[str], None]:
    from servable._server.border.gateway import LiteRt
    from servable.loaders._litert import LiteRtOptions

    spec = importlib.util.find_spec("ai_edge_litert")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    runtime = LiteRt(str(Path(spec.submodule_search_locations[0]) / "libLiteRt.so"))

    def load(path: str) -> None:
        servable = runtime.load_model(path, LiteRtOptions(interpreters=2))
        servable.warm_up_with_zeros(1)
        servable.unload()

    return load


def load_bare() -> Callable[[str], None]:
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator

    def load(path: str) -> None:
        model = CompiledModel.from_file(path, hardware_accel=HardwareAccelerator.CPU)
        for index in range(len(model.get_signature_list()) or 1):
            inputs: Any = model.create_input_buffers(index)
            outputs: Any = model.create_output_buffers(index)
            model.run_by_index(index, inputs, outputs)

    return load


def main(loader: str, model: str, first: int, last: int) -> None:
    """Try the damages from `first` to before `last`."""
    load = load_ours() if loader == "ours" else load_bare()
    sound = Path(model).read_bytes()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.tflite"
        for number in range(first, last):
            print(number, end=" ", flush=True)
            path.write_bytes(damaged(sound, number))
            try:
                load(str(path))
                print("loaded", flush=True)
            except Exception as error:  # any error is right, a crash is not
                print(f"{type(error).__name__}: {error}".replace("\n", " "), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
