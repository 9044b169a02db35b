"""Loads damaged copies of a model, each of which may end the process.

usage: load_damaged.py LOADER PLATFORM MODEL DIRECTORY FIRST LAST

LOADER is `servable`, or `library` for the Python package of the runtime. Each number stands for one damage. It is
printed before its load, so that a crash can be attributed, and then the outcome.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 100


@dataclass(frozen=True)
class Outcome:
    """What became of one damage.

    Attributes:
        number: The number of the damage.
        text: `loaded`, or the error; empty if the process has ended or hung.
    """

    number: int
    text: str


def damaged(data: bytes, number: int) -> bytes:
    """The data with one damage, the same for the same number."""
    chance = random.Random(number)
    kind = number % 6
    if kind == 0:
        return data[: chance.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(1 if kind == 1 else chance.randrange(1, 9)):
        at = chance.randrange(len(changed))
        length = chance.randrange(1, 200)
        if kind <= 2:
            changed[at] = chance.randrange(256)
        elif kind == 3:
            at = min(at // 4 * 4, len(changed) - 4)
            value = chance.choice([-1, 0, 1, 2**31 - 1, -(2**31), chance.randrange(100)])
            changed[at : at + 4] = value.to_bytes(4, "little", signed=True)
        elif kind == 4:
            del changed[at : at + length]
        else:
            changed[at:at] = changed[at : at + length]
    return bytes(changed)


def outcomes(
    loader: str, platform: str, model: Path, directory: Path, first: int, last: int
) -> Iterator[Outcome]:
    """Load the damages from `first` to before `last`, in a new process after each crash."""
    while first < last:
        places = [platform, str(model), str(directory)]
        try:
            done = subprocess.run(
                [sys.executable, __file__, loader, *places, str(first), str(last)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=SECONDS,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                check=False,
            )
            printed = done.stdout
        except subprocess.TimeoutExpired as expired:
            printed = expired.stdout or b""
        lines = printed.decode().splitlines()
        assert lines, "no damage was tried"
        for line in lines:
            number, _, text = line.partition(" ")
            yield Outcome(int(number), text)
        first = int(number) + 1


def crashes_of_servable_alone(
    platform: str, model: Path, directory: Path, count: int
) -> tuple[list[Outcome], list[int]]:
    """Load `count` damages as the server does.

    Returns:
        The outcomes, and the damages that end only a process that loads them as the server does.
    """
    tried = list(outcomes("servable", platform, model, directory / "servable", 0, count))
    crashed = [each.number for each in tried if not each.text]
    alone = [
        number
        for number in crashed
        for each in outcomes("library", platform, model, directory / "library", number, number + 1)
        if each.text
    ]
    return tried, alone


def load_with_servable(platform: str, path: Path) -> None:
    """Load and run as the server does."""
    from servable._server.config.models import ModelConfig
    from servable.lifecycle import ServableId
    from servable.platforms import PlatformContext, VersionDirectory, find_platforms

    model = ModelConfig("m", str(path.parent.parent), platform)
    directory = VersionDirectory(str(path.parent), model)
    loader = find_platforms(PlatformContext())[platform].make_loader(ServableId("m", 1), directory)
    loader.load()
    loader.servable.warm_up_with_zeros(1)  # type: ignore[attr-defined]
    loader.unload()


def load_with_library(platform: str, path: Path) -> None:
    """Load and run as a user of the Python package."""
    if platform == "tflite":
        run_litert(path)
    else:
        run_onnxruntime(path)


def run_litert(path: Path) -> None:
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator

    model = CompiledModel.from_file(str(path), hardware_accel=HardwareAccelerator.CPU)
    for index in range(len(model.get_signature_list()) or 1):
        inputs: Any = model.create_input_buffers(index)
        outputs: Any = model.create_output_buffers(index)
        model.run_by_index(index, inputs, outputs)


def run_onnxruntime(path: Path) -> None:
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    sizes = {
        each.name: [size if isinstance(size, int) else 1 for size in each.shape]
        for each in session.get_inputs()
    }
    session.run(None, {name: np.zeros(shape, np.float32) for name, shape in sizes.items()})


def main(loader: str, platform: str, model: str, directory: str, first: str, last: str) -> None:
    """Load the damages with these numbers."""
    load = {"servable": load_with_servable, "library": load_with_library}[loader]
    data = Path(model).read_bytes()
    path = Path(directory, "1", Path(model).name)
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in range(int(first), int(last)):
        print(number, end=" ", flush=True)
        path.write_bytes(damaged(data, number))
        try:
            load(platform, path)
            text = "loaded"
        except Exception as error:  # any error is right, a crash is not
            text = f"{type(error).__name__}: {error}".replace("\n", " ")
        print(text, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
