"""Models of native runtimes answer requests while another thread holds the interpreter's lock all the time."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from support.server_process import ServerProcess

EXPORT = Path(__file__).parents[2] / "benchmarks/serving/export_native_models.py"

# A function of a `PyDLL` is called without releasing the lock.
PROGRAM = """
import ctypes, pathlib, sys, threading, time
from servable.cli import main

def hold(told, held):
    sleep = ctypes.PyDLL(None).sleep
    while not told.exists():
        time.sleep(0.01)
    held.touch()
    sleep(3600)

told, held = map(pathlib.Path, sys.argv.pop().split(":"))
threading.Thread(target=hold, args=(told, held), daemon=True).start()
main()
"""

PYTHON_MODEL = """
from servable.signature import TensorSpec, serves

@serves(inputs={"x": TensorSpec("float32", [None])}, outputs={"y": TensorSpec("float32", [None])})
def identity(inputs):
    return {"y": inputs["x"]}
"""

needs = {
    kind: pytest.mark.skipif(
        importlib.util.find_spec(f"servable.platforms.{kind}") is None,
        reason=f"there is no platform of {kind} models yet",
    )
    for kind in ("onnx", "tflite", "xgboost", "lightgbm")
}


class LockableServer(ServerProcess):
    """A server of one model, called `m`, whose interpreter's lock can be taken."""

    def __init__(self, kind: str, base_path: Path, directory: Path) -> None:
        config = directory / "models.config"
        config.write_text(
            f'model_config_list {{ config {{ name: "m" base_path: "{base_path}"'
            f' model_platform: "{kind}" }} }}'
        )
        program = directory / "lockable.py"
        program.write_text(PROGRAM)
        self._told, self._held = directory / "told", directory / "held"
        super().__init__(
            [f"--model_config_file={config}", f"{self._told}:{self._held}"],
            directory=directory,
            command=(sys.executable, str(program)),
        )

    def take_the_lock(self) -> None:
        """Take the lock for good."""
        self._told.touch()
        end = time.monotonic() + 30
        while not self._held.exists():
            assert time.monotonic() < end, self.log
            time.sleep(0.01)


@pytest.mark.parametrize(
    "kind", ["tensorflow", *(pytest.param(kind, marks=mark) for kind, mark in needs.items())]
)
def test_native_models_answer_while_the_interpreters_lock_is_held(
    kind: str, half_plus_two_version: Path, tmp_path: Path
) -> None:
    instances: list[Any] = [1.0, 2.0]
    base_path = half_plus_two_version.parent
    if kind != "tensorflow":
        subprocess.run([sys.executable, EXPORT, tmp_path, f"{kind}_small"], check=True)
        base_path = tmp_path / f"{kind}_small"
        instances = [json.loads((tmp_path / f"{kind}_small.json").read_text())["row"]] * 2
    with LockableServer(kind, base_path, tmp_path) as server:
        server.wait_until_available("m")
        expected = server.predict("m", {"instances": instances}).json()
        assert len(expected["predictions"]) == 2, expected
        server.take_the_lock()
        for _ in range(50):
            assert server.predict("m", {"instances": instances}).json() == expected
        assert server.is_running


def test_a_python_model_does_not(tmp_path: Path) -> None:
    version = tmp_path / "m" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(PYTHON_MODEL)
    with LockableServer("python", version.parent, tmp_path) as server:
        server.wait_until_available("m")
        request = urllib.request.Request(
            f"http://127.0.0.1:{server.rest_port}/v1/models/m:predict", b'{"instances": [1]}'
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert json.load(answer) == {"predictions": [1.0]}
        server.take_the_lock()
        with pytest.raises(TimeoutError):
            urllib.request.urlopen(request, timeout=2)
