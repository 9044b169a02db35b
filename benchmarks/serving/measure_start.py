"""The time and the memory of a server's start, and the time of an import."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from bench import Bench, Figure
from native import native_model
from processes import ServerProcess, running_with_flags

SETTLE_SECONDS = 2.0

PUBLIC_NAMES = "from servable import Flags, ModelServer, load, save"
"""Everything, for comparison. Saving imports NumPy."""


def measure_start(bench: Bench, show: Callable[[str], None]) -> list[Figure]:
    """From the start of the process to the first correct answer, and what it then holds; and `import servable`."""
    seconds, resident_bytes = measure_starts(bench, "TensorFlow", bench.server, show)
    model = native_model("onnx", "small")
    flag = bench.model_flag(model.base_path, "onnx")

    def start_onnx() -> AbstractContextManager[ServerProcess]:
        return running_with_flags(bench.log, flag)

    onnx_seconds, onnx_bytes = measure_starts(
        bench, "ONNX", start_onnx, show, lambda server: model.calls(bench, server)
    )
    imported = import_millis(bench, "import servable")
    show(
        f"  import servable: {imported:.1f} ms, with all names {import_millis(bench, PUBLIC_NAMES):.0f} ms"
    )
    return [
        Figure("start of the process to the first answer", seconds, "s", 1.0),
        Figure("resident memory at idle", resident_bytes / 1e6, "MB", 400, digits=0),
        Figure("one ONNX model: start to the first answer", onnx_seconds, "s", 0.4),
        Figure("one ONNX model: resident memory at idle", onnx_bytes / 1e6, "MB", 120, digits=0),
        Figure("import servable", imported, "ms", 40, digits=1),
    ]


def measure_starts(
    bench: Bench,
    name: str,
    start: Callable[[], AbstractContextManager[ServerProcess]],
    show: Callable[[str], None],
    wait: Callable[[ServerProcess], object] = lambda server: None,
) -> tuple[float, int]:
    """The median time until the server answers, and its resident memory at idle.

    Args:
        bench: The environment.
        name: The runtime, as printed.
        start: Starts a server.
        show: Prints a line.
        wait: Waits for the first answer, unless `start` does.
    """
    seconds: list[float] = []
    cpu_seconds: list[float] = []
    for _ in range(bench.effort.starts):
        started = time.monotonic()
        with start() as server:
            wait(server)
            seconds.append(time.monotonic() - started)
            cpu_seconds.append(server.cpu_seconds())
            if len(seconds) == bench.effort.starts:
                time.sleep(SETTLE_SECONDS)
                resident_bytes = server.resident_bytes()
    show(f"  {name}: seconds to the first answer: " + " ".join(f"{each:.3f}" for each in seconds))
    show(f"  {name}: CPU seconds until then: " + " ".join(f"{each:.3f}" for each in cpu_seconds))
    return statistics.median(seconds), resident_bytes


def import_millis(bench: Bench, statement: str) -> float:
    """The median time of an import, in new processes."""
    program = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", program]
    outputs = [
        subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for _ in range(2 * bench.effort.starts)
    ]
    return 1000 * statistics.median(map(float, outputs))
