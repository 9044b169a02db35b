"""The batch scheduler alone, against a plain bounded channel."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Callable

from bench import Bench, Figure


def measure_scheduler(bench: Bench, show: Callable[[str], None]) -> list[Figure]:
    """CPU that a request through the batch scheduler costs: an empty batch function, 16 producers."""
    rounds = [run(bench) for _ in range(bench.effort.rounds)]
    names = ("scheduler", "bounded channel with answers", "bounded channel")
    for name, values in zip(names, zip(*rounds, strict=True), strict=True):
        show(f"  {name}: {statistics.median(values):.2f} µs of CPU a request")
    return [
        Figure(
            "batch scheduler, CPU a request (empty function, 16 producers)",
            statistics.median(scheduler for scheduler, _, _ in rounds),
            "µs",
            2,
        ),
        Figure(
            "batch scheduler ÷ plain bounded channel, CPU a request",
            statistics.median(scheduler / channel for scheduler, _, channel in rounds),
            "×",
            5,
        ),
    ]


def run(bench: Bench) -> list[float]:
    """One round: microseconds for the scheduler, and for the channel with and without answers."""
    program = str(bench.programs / "batch_scheduler")
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return [float(line) for line in printed.split()]
