"""A pipeline of scikit-learn that `servable.save` has written, against the same pipeline behind FastAPI."""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import Bench, Figure
from load import Expectation
from measure_cpu import measure_load
from native import MODELS, native_model
from processes import ServerProcess, free_port, running, running_with_flags

HERE = Path(__file__).resolve().parent
PACKAGES = HERE.parents[1] / ".venv/comparisons"
"""What `make bench` installs for comparisons only."""

WORKERS = 2


def measure_pipeline(bench: Bench, show: Callable[[str], None]) -> list[Figure]:
    """A pipeline of scikit-learn: requests/s saved and served ÷ behind FastAPI with two workers of uvicorn."""
    model = native_model("sklearn", "small")
    flag = bench.model_flag(model.base_path, "onnx")
    rates: dict[str, list[float]] = {"served": [], "FastAPI": []}
    with running_with_flags(bench.log, flag) as served, running_fastapi(bench) as fastapi:
        call, _ = model.calls(bench, served)
        fastapi.wait_until_answers(call.body.read_bytes())
        servers = {"served": served, "FastAPI": fastapi}
        for server in servers.values():
            model.first_answer(bench, server, call)
        for _ in range(bench.effort.rounds):
            for name, server in servers.items():
                sample = measure_load(bench, server, call, Expectation())
                rates[name].append(sample.load.requests / sample.load.seconds)
    for name, found in rates.items():
        show(
            f"  {name:<8} {statistics.median(found):>7.0f} requests/s ({min(found):.0f}–{max(found):.0f})"
        )
    ratio = statistics.median(
        one / other for one, other in zip(rates["served"], rates["FastAPI"], strict=True)
    )
    figure = "scikit-learn pipeline, REST: requests/s, served ÷ FastAPI"
    return [Figure(figure, ratio, "×", 10, is_floor=True, digits=1)]


@contextlib.contextmanager
def running_fastapi(bench: Bench) -> Iterator[ServerProcess]:
    """Run uvicorn with its fastest event loop and parser; it may not answer yet."""
    if not PACKAGES.is_dir():
        raise RuntimeError(f"{PACKAGES} does not exist: `make .venv/stamps/comparisons` makes it")
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "fastapi_app:app", f"--port={port}"]
    command += [f"--workers={WORKERS}", "--loop=uvloop", "--http=httptools", "--no-access-log"]
    command += ["--log-level=warning", f"--app-dir={HERE}"]
    environment = {
        "PYTHONPATH": str(PACKAGES),
        "PIPELINE": str(MODELS / "sklearn_small.joblib"),
        "OMP_NUM_THREADS": "1",
    }
    with (
        bench.log.open("ab") as output,
        running(command, output.fileno(), environment=os.environ | environment) as process,
    ):
        yield ServerProcess(process, port)
