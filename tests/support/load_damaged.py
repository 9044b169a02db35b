"""Loads damaged copies of a model, each of which may end the process.

usage: load_damaged.py LOADER PLATFORM MODEL DIRECTORY NUMBER...

LOADER is `server`, `trial` for the server with `trial_load`, or `library` for the Python package of the runtime. Each
number stands for one damage. It is printed before the damaged model is loaded and run, so that a crash can be
attributed, and is followed by `loaded` or the error. The sound model is loaded in between, which shows memory that was
destroyed.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

DAMAGES = 200
ATTEMPTS = 5
"""How often a library may survive what crashes the server: reads of foreign memory crash by chance."""
SECONDS = 30
"""A load that takes longer counts as a crash."""
MEMORY = 16 << 30
"""The address space of a process in bytes: a damaged size must not take the memory of the machine."""


def damaged(data: bytes, number: int) -> bytes:
    """The data with one damage, the same for the same number.

    They are cut short, have other bytes, words or digits, and lost or repeated parts.
    """
    chance = random.Random(number)
    kind = number % 7
    if kind == 0:
        return data[: chance.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(1 if kind == 1 else chance.randrange(1, 9)):
        at = chance.randrange(len(changed))
        length = min(chance.randrange(1, 200), len(changed) // 2)
        if kind <= 2:
            changed[at] = chance.randrange(256)
        elif kind == 3:
            at = max(0, min(at // 4 * 4, len(changed) - 4))
            word = chance.choice([-1, 0, 1, 2**31 - 1, -(2**31), chance.randrange(100)])
            changed[at : at + 4] = word.to_bytes(4, "little", signed=True)
        elif kind == 4:
            del changed[at : at + length]
        elif kind == 5:
            changed[at:at] = changed[at : at + length]
        else:
            nearby = range(at, min(at + 5000, len(changed)))
            digits = [place for place in nearby if chr(changed[place]).isdigit()]
            changed[chance.choice(digits or [at])] = ord(chance.choice("0123456789-."))
    return bytes(changed)


def outcomes(
    loader: str, platform: str, model: Path, directory: Path, numbers: Iterable[int]
) -> Mapping[int, str]:
    """Load damages of a model, in a new process after each crash.

    Args:
        loader: `server`, `trial` or `library`.
        platform: The kind of the model.
        model: Its file, with a name that the kind recognises.
        directory: For the copies.
        numbers: The damages.

    Returns:
        For each damage `loaded`, the error, or nothing if the process has ended.
    """
    left, found = list(numbers), dict[int, str]()
    while left:
        done = subprocess.run(
            [sys.executable, __file__, loader, platform, model, directory, *map(str, left)],
            capture_output=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            check=False,
        )
        lines = done.stdout.decode().splitlines()
        assert lines, "no damage was tried"
        for number, line in zip(left, lines, strict=False):
            found[number] = line.partition(" ")[2]
        if done.returncode:
            print(
                f"{loader}, damage {left[len(lines) - 1]}: {done.returncode}", done.stderr[-2000:]
            )
        left = left[len(lines) :]
    return found


def assert_only_the_library_crashes(platform: str, model: Path, directory: Path) -> list[str]:
    """Load many damages of a model as a server does.

    What crashes has to crash in the Python package of the library too, and must be refused after a trial load.

    Returns:
        What became of those that did not crash, see `outcomes`.
    """
    served = outcomes("server", platform, model, directory / "server", range(DAMAGES))
    crashed = [number for number, text in served.items() if not text]
    only_here = crashed
    for attempt in range(ATTEMPTS):
        bare = outcomes("library", platform, model, directory / f"library-{attempt}", only_here)
        only_here = [number for number in only_here if bare[number]]
    tried = outcomes("trial", platform, model, directory / "trial", crashed)
    assert not only_here
    assert all(tried.values()), tried
    return [text for text in served.values() if text]


def _server(platform: str, *, trial_load: bool) -> Callable[[Path], None]:
    from servable._server.config.models import ModelConfig
    from servable.lifecycle import ServableId
    from servable.platforms import PlatformContext, VersionDirectory
    from servable.platforms._registry import PlatformAdapter, find_platforms

    adapter = PlatformAdapter(find_platforms(PlatformContext()))

    def load(path: Path) -> None:
        model = ModelConfig("m", str(path.parent.parent), platform, trial_load=trial_load)
        loader = adapter.adapt(ServableId("m", 1), VersionDirectory(str(path.parent), model))
        loader.load()
        loader.servable.warm_up_with_zeros(1)  # type: ignore[attr-defined]
        loader.unload()

    return load


def _litert(path: Path) -> None:
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator

    model = CompiledModel.from_file(str(path), hardware_accel=HardwareAccelerator.CPU)
    for index in range(len(model.get_signature_list()) or 1):
        inputs: Any = model.create_input_buffers(index)
        outputs: Any = model.create_output_buffers(index)
        model.run_by_index(index, inputs, outputs)


def _onnxruntime(path: Path) -> None:
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    sizes = {
        each.name: [size if isinstance(size, int) else 1 for size in each.shape]
        for each in session.get_inputs()
    }
    session.run(None, {name: np.zeros(shape, np.float32) for name, shape in sizes.items()})


def _xgboost(path: Path) -> None:
    import numpy as np
    import xgboost

    booster = xgboost.Booster(model_file=str(path))
    for value in (np.nan, 0):
        row = np.full((1, booster.num_features()), value, "float32")
        booster.inplace_predict(row)
        booster.predict(xgboost.DMatrix(row), pred_contribs=True, validate_features=False)


def _lightgbm(path: Path) -> None:
    import lightgbm
    import numpy as np

    booster = lightgbm.Booster(model_file=str(path))
    for value in (np.nan, 0):
        row = np.full((1, booster.num_feature()), value)
        booster.predict(row)
        with contextlib.suppress(lightgbm.basic.LightGBMError):  # linear trees have none
            booster.predict(row, pred_contrib=True)


_LIBRARIES = {
    "tflite": _litert,
    "onnx": _onnxruntime,
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
}
"""Loads and runs a model as a user of the library's own Python package would."""


def main(loader: str, platform: str, model: Path, directory: Path, numbers: list[int]) -> None:
    """Load the damages with these numbers."""
    if loader == "library":
        load = _LIBRARIES[platform]
    else:
        load = _server(platform, trial_load=loader == "trial")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    data = model.read_bytes()
    copies = [directory / name / "1" / model.name for name in ("damaged", "sound")]
    for copy in copies:
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(data)
    for number in numbers:
        print(number, end=" ", flush=True)
        copies[0].write_bytes(damaged(data, number))
        signal.alarm(SECONDS)  # its default action ends loops in C code too
        text = "loaded"
        try:
            load(copies[0])
        except Exception as error:  # any error is right, a crash is not
            text = ascii(f"{type(error).__name__}: {error}")
        load(copies[1])
        signal.alarm(0)
        print(text, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3], Path(sys.argv[3]), Path(sys.argv[4]), list(map(int, sys.argv[5:])))
