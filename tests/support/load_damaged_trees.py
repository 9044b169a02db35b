"""Loads damaged copies of a model, each in a process of its own, and tells which are refused and which crash.

usage: load_damaged_trees.py LOADER PLATFORM MODEL DIRECTORY NUMBER...

Each number is one damage. LOADER is `server`, `trial` for the server with `trial_load`, or `library` for the Python
package of the library. A process loads the damaged copy, runs it on zeros, and then does the same with the sound model,
which shows memory that the damaged one has destroyed. Prints one object of JSON: numbers by how the process ended.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

DAMAGES = 200
ATTEMPTS = 5
SECONDS = 30
"""The longest a load may take; one that takes longer counts as a crash."""
MEMORY = 16 << 30
"""The address space of a process in bytes: a damaged size must not take the memory of the machine."""

_REFUSED = 3


@dataclass(frozen=True)
class Outcome:
    """How damages ended.

    Attributes:
        loaded: Those that load and run.
        refused: Those that are refused by an error.
        crashed: Those that end the process, and its signal.
    """

    loaded: list[int]
    refused: list[int]
    crashed: dict[int, str]


def damaged(data: bytes, number: int) -> bytes:
    """A copy with one of many damages: cut short, with other bits, digits or words, with lost and repeated parts."""
    generator = random.Random(number)
    kind = number % 6
    if kind == 0:
        return data[: generator.randrange(len(data))]
    found = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(found) - 4)
        length = generator.randint(1, 200)
        if kind == 1:
            found[at] ^= 1 << generator.randrange(8)
        elif kind == 2:
            digits = [i for i in range(at, min(at + 5000, len(found))) if chr(found[i]).isdigit()]
            if digits:
                found[generator.choice(digits)] = ord(generator.choice("0123456789-."))
        elif kind == 3:
            at -= at % 4
            word = generator.choice([-1, 0, 1, 2**31 - 1, -(2**31), generator.randrange(100)])
            found[at : at + 4] = word.to_bytes(4, "little", signed=True)
        elif kind == 4:
            del found[at : at + min(length, len(found) // 2)]
        else:
            found[at:at] = found[at : at + length]
    return bytes(found)


def try_damages(
    loader: str, platform: str, model: Path, directory: Path, numbers: Iterable[int]
) -> Outcome:
    """Load damages of a model.

    Args:
        loader: `server`, `trial` or `library`.
        platform: The kind of the model.
        model: Its file, with a name that the kind recognises.
        directory: For the copies.
        numbers: The damages.
    """
    arguments = [loader, platform, str(model), str(directory), *map(str, numbers)]
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        check=True,
    )
    found = json.loads(done.stdout)
    crashed = {int(number): end for number, end in found["crashed"].items()}
    return Outcome(found["loaded"], found["refused"], crashed)


def assert_crashes_are_those_of_the_library(platform: str, model: Path, directory: Path) -> None:
    """Load many damages of a model; see `try_damages`.

    What crashes has to crash in the Python package of the library too, and must be refused after a trial load. A read
    of other memory crashes by chance, so the package gets several attempts.
    """
    served = try_damages("server", platform, model, directory / "served", range(DAMAGES))
    spared = set(served.crashed)
    for attempt in range(ATTEMPTS):
        if spared:
            bare = try_damages("library", platform, model, directory / f"bare-{attempt}", spared)
            spared -= bare.crashed.keys()
    tried = try_damages("trial", platform, model, directory / "tried", served.crashed)
    print(
        f"{platform}, {model.name}: {len(served.refused)} of {DAMAGES} refused, "
        f"{len(served.loaded)} loaded, crashes: {served.crashed}, after a trial: {tried.crashed}"
    )
    assert len(served.refused) > DAMAGES / 4
    assert not spared
    assert not tried.crashed


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


def _xgboost() -> Callable[[Path], None]:
    import numpy as np
    import xgboost

    def load(path: Path) -> None:
        booster = xgboost.Booster(model_file=str(path))
        for value in (np.nan, 0):
            row = np.full((1, booster.num_features()), value, "float32")
            booster.inplace_predict(row)
            booster.predict(xgboost.DMatrix(row), pred_contribs=True, validate_features=False)

    return load


def _lightgbm() -> Callable[[Path], None]:
    import lightgbm
    import numpy as np

    def load(path: Path) -> None:
        booster = lightgbm.Booster(model_file=str(path))
        for value in (np.nan, 0):
            row = np.full((1, booster.num_feature()), value)
            booster.predict(row)
            booster.predict(row, pred_contrib=True)

    return load


_LIBRARIES = {"xgboost": _xgboost, "lightgbm": _lightgbm}
"""Loads and runs a model as a user of the library's own Python package would."""


def _in_a_process(load: Callable[[Path], None], damaged_file: Path, sound_file: Path) -> int:
    """Load both in a fork, and return its wait status. The parent has neither threads nor an open library."""
    process = os.fork()
    if not process:
        status = 1
        try:
            # The default action ends loops in C code too.
            signal.alarm(SECONDS)
            try:
                load(damaged_file)
                status = 0
            except Exception:
                traceback.print_exc()
                status = _REFUSED
            load(sound_file)
        except BaseException:
            traceback.print_exc()
            status = 1
        finally:
            os._exit(status)
    return os.waitpid(process, 0)[1]


def main(loader: str, platform: str, model: Path, directory: Path, numbers: list[int]) -> None:
    """Load the damages with these numbers."""
    is_bare = loader == "library"
    load = _LIBRARIES[platform]() if is_bare else _server(platform, trial_load=loader == "trial")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    data = model.read_bytes()
    file = directory / "1" / model.name
    file.parent.mkdir(parents=True, exist_ok=True)
    loaded, refused, crashed = [], [], {}
    for number in numbers:
        file.write_bytes(damaged(data, number))
        status = _in_a_process(load, file, model)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            loaded.append(number)
        elif code == _REFUSED:
            refused.append(number)
        else:
            crashed[number] = signal.Signals(-code).name if code < 0 else f"status {code}"
    print(json.dumps({"loaded": loaded, "refused": refused, "crashed": crashed}))


if __name__ == "__main__":
    main(*sys.argv[1:3], Path(sys.argv[3]), Path(sys.argv[4]), list(map(int, sys.argv[5:])))
