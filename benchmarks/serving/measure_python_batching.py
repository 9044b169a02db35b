"""`servable.batching.BatchScheduler`: the overhead of a call, against Python's tools."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bench import Bench, Figure
from servable.batching import BatchingParameters, BatchScheduler

THREADS = 16
WINDOW = 64
CALLS_PER_SECOND = 8000
"""The number of calls for each second of a measurement; a guess at their rate."""


def double(rows: np.ndarray) -> np.ndarray:
    """The called function: so little work that the time is the overhead of the call."""
    return rows + rows


ROW = np.ones((1, 4), np.float32)


def measure_python_batching(bench: Bench, show: Callable[[str], None]) -> list[Figure]:
    """Calls of a Python function through BatchScheduler, beside calling it and handing it to concurrent.futures."""
    calls = int(CALLS_PER_SECOND * bench.effort.seconds)
    parameters = BatchingParameters(num_batch_threads=1, max_enqueued_batches=100)
    found: dict[str, list[tuple[float, float]]] = {}
    with BatchScheduler(double, parameters) as batched, ThreadPoolExecutor(1) as executor:
        ways: dict[str, Callable[[int], None]] = {
            "called directly, 1 thread": lambda count: repeat(double, count),
            "concurrent.futures, 1 thread": lambda count: repeat(
                lambda row: executor.submit(double, row).result(), count
            ),
            "BatchScheduler, 1 thread": lambda count: repeat(batched, count),
            f"concurrent.futures, {THREADS} threads": lambda count: in_threads(
                lambda row: executor.submit(double, row).result(), count
            ),
            f"BatchScheduler, {THREADS} threads": lambda count: in_threads(batched, count),
            f"run_in_executor, asyncio, {WINDOW} at once": lambda count: in_loop(
                lambda row: asyncio.get_running_loop().run_in_executor(executor, double, row), count
            ),
            f"BatchScheduler, asyncio, {WINDOW} at once": lambda count: in_loop(
                batched.run_async, count
            ),
        }
        for _ in range(bench.effort.rounds):
            for name, way in ways.items():
                way(calls // 20)
                found.setdefault(name, []).append(measure(way, calls))
    show(f"  {'µs a call':<40} {'wall':>8} {'CPU':>8}")
    medians = {
        name: [statistics.median(values) for values in zip(*pairs, strict=True)]
        for name, pairs in found.items()
    }
    for name, (wall, cpu) in medians.items():
        show(f"  {name:<40} {wall:>8.2f} {cpu:>8.2f}")
    return []


def measure(way: Callable[[int], None], calls: int) -> tuple[float, float]:
    """The wall time and the CPU of a call, in microseconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    way(calls)
    return (time.perf_counter() - wall) / calls * 1e6, (time.process_time() - cpu) / calls * 1e6


def repeat(call: Callable[[np.ndarray], object], calls: int) -> None:
    """Call repeatedly."""
    for _ in range(calls):
        call(ROW)


def in_threads(call: Callable[[np.ndarray], object], calls: int) -> None:
    """Call from several threads concurrently."""
    threads = [
        threading.Thread(target=repeat, args=(call, calls // THREADS)) for _ in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def in_loop(call: Callable[[np.ndarray], object], calls: int) -> None:
    """Call from several tasks of an event loop concurrently."""

    async def caller() -> None:
        for _ in range(calls // WINDOW):
            await call(ROW)

    async def callers() -> None:
        await asyncio.gather(*(caller() for _ in range(WINDOW)))

    asyncio.run(callers())
