"""Models of the native runtimes other than TensorFlow, and requests for them."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import Bench, require_no_errors
from load import Call, Expectation
from processes import PREDICT_PATH, ServerProcess

HERE = Path(__file__).resolve().parent
MODELS = HERE.parents[1] / "target/benchmarks/models"

KINDS = ("onnx", "tflite", "xgboost", "lightgbm")


@dataclass(frozen=True)
class NativeModel:
    """A model, with a row of its input and the numbers that its library computes from it."""

    base_path: Path
    row: tuple[float, ...]
    numbers: tuple[float, ...]

    def call(self, bench: Bench) -> Call:
        """A REST request with the row."""
        body = bench.scratch / f"{self.base_path.name}.json"
        body.write_text(json.dumps({"instances": [self.row]}))
        return Call("rest", PREDICT_PATH, body)

    def first_answer(self, bench: Bench, server: ServerProcess) -> Expectation:
        """Wait for the first answer, and check that it contains the numbers; all others must be equal to it."""
        call = self.call(bench)
        server.wait_until_answers(call.body.read_bytes())
        path = bench.scratch / f"{self.base_path.name}.answer"
        run = bench.load(
            server, call, Expectation(), connections=1, seconds=10, requests=1, save_answer=path
        )
        require_no_errors(run.result())
        found = list(numbers_in(json.loads(path.read_bytes())))
        count = len(self.numbers)
        windows = (found[start : start + count] for start in range(len(found) - count + 1))
        if not any(map(self._is_right, windows)):
            raise RuntimeError(f"{self.base_path.name}: got {found}, want {self.numbers}")
        return Expectation(answer=path)

    def _is_right(self, found: list[float]) -> bool:
        pairs = zip(found, self.numbers, strict=True)
        return all(math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-5) for one, other in pairs)


def numbers_in(value: Any) -> Iterator[float]:
    """All numbers in a JSON value, in order."""
    if isinstance(value, int | float):
        yield float(value)
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(each)


def served_kinds() -> tuple[str, ...]:
    """The kinds that this version of the server has."""
    platforms = "servable.platforms."
    return tuple(kind for kind in KINDS if importlib.util.find_spec(platforms + kind) is not None)


def native_model(name: str) -> NativeModel:
    """A model of `export_native_models.py`, such as `onnx_small`; made once for each version of that program."""
    script = HERE / "export_native_models.py"
    described = MODELS / f"{name}.json"
    if not described.exists() or described.stat().st_mtime < script.stat().st_mtime:
        command = [sys.executable, str(script), str(MODELS), name]
        subprocess.run(command, check=True, capture_output=True)
    description = json.loads(described.read_text())
    return NativeModel(MODELS / name, tuple(description["row"]), tuple(description["numbers"]))
