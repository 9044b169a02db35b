"""The time and the memory of a server's start."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from bench import Bench, Figure

SETTLE_SECONDS = 2.0


def measure_start(bench: Bench, show: Callable[[str], None]) -> list[Figure]:
    """From the start of the process to the first correct answer, and what it then holds."""
    seconds: list[float] = []
    cpu_seconds: list[float] = []
    for _ in range(bench.effort.starts):
        started = time.monotonic()
        with bench.server() as server:
            seconds.append(time.monotonic() - started)
            cpu_seconds.append(server.cpu_seconds())
            if len(seconds) == bench.effort.starts:
                time.sleep(SETTLE_SECONDS)
                resident_bytes = server.resident_bytes()
    show("  seconds to the first answer: " + " ".join(f"{each:.3f}" for each in seconds))
    show("  CPU seconds until then:      " + " ".join(f"{each:.3f}" for each in cpu_seconds))
    return [
        Figure("start of the process to the first answer", statistics.median(seconds), "s", 1.0),
        Figure("resident memory at idle", resident_bytes / 1e6, "MB", 400, digits=0),
    ]
