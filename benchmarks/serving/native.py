"""Models of the native runtimes other than TensorFlow, and requests for them."""

from __future__ import annotations

import importlib.util
import json
import math
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import Bench, save_any_answer
from load import GRPC_PREDICT, BatchRun, Call, Expectation, predict_request
from processes import METADATA_PATH, PREDICT_PATH, ServerProcess

HERE = Path(__file__).resolve().parent
MODELS = HERE.parents[1] / "target/benchmarks/models"

LIBRARIES = {
    "onnx": ("onnxruntime", "capi/libonnxruntime.*"),
    "tflite": ("ai_edge_litert", "libLiteRt.*"),
    "xgboost": ("xgboost", "lib/libxgboost.*"),
    "lightgbm": ("lightgbm", "lib/lib_lightgbm.*"),
}
"""The packages of the kinds, and where the libraries are in them."""


@dataclass(frozen=True)
class NativeModel:
    """A model, with a row of its input and the numbers that its library computes from it."""

    kind: str
    base_path: Path
    row: tuple[float, ...]
    numbers: tuple[float, ...]

    def calls(self, bench: Bench, server: ServerProcess) -> tuple[Call, Call]:
        """Wait for the first answer; returns requests with the row, over REST and over gRPC."""
        rest = Call("rest", PREDICT_PATH, bench.scratch / f"{self.base_path.name}.json")
        rest.body.write_text(json.dumps({"instances": [self.row]}))
        server.wait_until_answers(rest.body.read_bytes())
        metadata = json.loads(server.request("GET", METADATA_PATH)[1])["metadata"]
        signature = metadata["signature_def"]["signature_def"]["serving_default"]
        [(name, spec)] = signature["inputs"].items()
        letter = {"DT_FLOAT": "f", "DT_DOUBLE": "d"}[spec["dtype"]]
        grpc = Call("grpc", GRPC_PREDICT, bench.scratch / f"{self.base_path.name}.pb")
        row = self._packed_row(letter)
        request = predict_request(row, len(self.row), name, are_doubles=letter == "d")
        grpc.body.write_bytes(request)
        return rest, grpc

    def first_answer(self, bench: Bench, server: ServerProcess, call: Call) -> Expectation:
        """Check that an answer contains the numbers; all others must be equal to it."""
        answer = save_any_answer(bench, server, call)
        found = answer.read_bytes()
        if call.protocol == "rest":
            self._require_numbers(list(numbers_in(json.loads(found))))
        else:
            self._require_packed_numbers(found)
        return Expectation(answer=answer)

    def bare_runs(
        self,
        bench: Bench,
        sizes: Sequence[int] = (1,),
        threads: int = 1,
        intra_op_threads: int = 1,
        seconds: float | None = None,
    ) -> list[BatchRun]:
        """Batches made by hand, in a bare loop over the C functions of the library."""
        row = bench.scratch / f"{self.base_path.name}.row"
        row.write_bytes(self._packed_row())
        command = [
            str(bench.programs / "native_batches"),
            f"--kind={self.kind}",
            f"--library={library(self.kind)}",
            f"--model={next((self.base_path / '1').glob('model.*'))}",
            f"--row={row}",
            f"--numbers={len(self.numbers)}",
            f"--sizes={','.join(map(str, sizes))}",
            f"--threads={threads}",
            f"--intra-op-threads={intra_op_threads}",
            f"--seconds={seconds or bench.effort.seconds / 4}",
        ]
        printed = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=120
        ).stdout
        runs = []
        for line in printed.splitlines():
            run = json.loads(line)
            self._require_numbers(run.pop("answer"))
            runs.append(BatchRun(intra_op_threads, **run))
        return runs

    def _packed_row(self, letter: str = "f") -> bytes:
        return struct.pack(f"<{len(self.row)}{letter}", *self.row)

    def _require_numbers(self, found: Sequence[float]) -> None:
        """Require the numbers in a row among others."""
        count = len(self.numbers)
        windows = (found[start : start + count] for start in range(len(found) - count + 1))
        if not any(map(self._are_right, windows)):
            raise RuntimeError(f"{self.base_path.name}: got {found}, want {self.numbers}")

    def _require_packed_numbers(self, message: bytes) -> None:
        """Require the numbers in a row in a message, as floats or doubles, at any position."""
        for letter in "fd":
            layout = struct.Struct(f"<{len(self.numbers)}{letter}")
            for start in range(len(message) - layout.size + 1):
                if self._are_right(layout.unpack_from(message, start)):
                    return
        raise RuntimeError(f"{self.base_path.name}: got {message!r}, want {self.numbers}")

    def _are_right(self, found: Sequence[float]) -> bool:
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
    return tuple(
        kind for kind in LIBRARIES if importlib.util.find_spec(platforms + kind) is not None
    )


def library(kind: str) -> Path:
    """The C library of a kind, in the installed package."""
    package, pattern = LIBRARIES[kind]
    specification = importlib.util.find_spec(package)
    if specification is None or not specification.submodule_search_locations:
        raise RuntimeError(f"{package} is not installed")
    return next(Path(specification.submodule_search_locations[0]).glob(pattern))


def native_model(kind: str, size: str) -> NativeModel:
    """A `small` or `large` model of `export_native_models.py`; made once for each version of that program."""
    name = f"{kind}_{size}"
    script = HERE / "export_native_models.py"
    described = MODELS / f"{name}.json"
    if not described.exists() or described.stat().st_mtime < script.stat().st_mtime:
        command = [sys.executable, str(script), str(MODELS), name]
        subprocess.run(command, check=True, capture_output=True)
    description = json.loads(described.read_text())
    return NativeModel(
        kind, MODELS / name, tuple(description["row"]), tuple(description["numbers"])
    )
