"""Models of the native runtimes of at least 400 µs a row: batches of the server against batches made by hand."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable

from bench import FULL, QUICK, Bench, Figure
from load import BatchRun, Call, Expectation
from measure_convolution import CLIENTS, GREEDY
from measure_cpu import CpuSample, measure_load
from native import NativeModel, native_model, served_kinds
from processes import ServerProcess, running_with_flags, worker_threads

SIZES = (1, 8, CLIENTS // 2, CLIENTS)

LEAST_MICROS = 400
"""The cost of a row from which on nine tenths can be reached, see `measure_row_costs`."""

THREADS = {
    "onnx": "intra_op_threads",
    "tflite": "threads",
    "xgboost": "threads",
    "lightgbm": "threads",
}
"""The option for the threads of a run."""

TREES = ("xgboost", "lightgbm")


def measure_native_batches(bench: Bench, show: Callable[[str], None]) -> list[Figure]:
    """Models of native runtimes, rows/s and CPU a row: 32 clients that send single rows ÷ best batches made by hand."""
    protocols = ("rest", "grpc") if bench.effort is FULL else ("grpc",)
    bench = dataclasses.replace(bench, effort=QUICK)
    return [
        figure
        for kind in served_kinds()
        for figure in measure_kind(bench, native_model(kind, "large"), protocols, show)
    ]


def measure_kind(
    bench: Bench, model: NativeModel, protocols: tuple[str, ...], show: Callable[[str], None]
) -> list[Figure]:
    """The figures of one kind."""
    best = best_by_hand(bench, model)
    show(
        f"  {model.kind}: {best.cpu_micros:.0f} µs of CPU a row, {best.rows_per_second:.0f} rows/s at best by hand"
        f" ({best.size} rows, {best.threads} threads, {best.intra_op_threads} threads a run)"
    )
    if best.cpu_micros < LEAST_MICROS:
        show(f"    this is below {LEAST_MICROS} µs: the goal is not meant for it")
    rounds: dict[str, list[list[float]]] = {protocol: [] for protocol in protocols}
    # A batch of all clients waits for the last of them, since nothing else would run meanwhile.
    for threads, size, timeout in (1, CLIENTS // 2, 0), (worker_threads(), CLIENTS, 2000):
        show(f"    batches of {size} rows, {threads} threads a run, time-out {timeout} µs")
        options = option(THREADS[model.kind], threads)
        if model.kind in TREES:
            options += option("rows_per_thread", 1)
        batching = bench.batching(
            **GREEDY | {"max_batch_size": size, "batch_timeout_micros": timeout}
        )
        flags = (bench.model_flag(model.base_path, model.kind, options), *batching)
        with running_with_flags(bench.log, *flags) as server:
            for call in model.calls(bench, server):
                if call.protocol in protocols:
                    ratios = measure_rounds(bench, server, model, call, best, show)
                    rounds[call.protocol].append(ratios)
    return [
        Figure(
            f"{model.kind} of {best.cpu_micros:.0f} µs a row, {CLIENTS} {protocol} clients: ÷ by hand",
            max(map(statistics.median, ratios)),
            "×",
            0.9,
            is_floor=True,
        )
        for protocol, ratios in rounds.items()
    ]


def option(key: str, value: int) -> str:
    """One of the `servable_options`, as text."""
    return f'options {{ key: "{key}" value: "{value}" }} '


def measure_rounds(
    bench: Bench,
    server: ServerProcess,
    model: NativeModel,
    call: Call,
    best: BatchRun,
    show: Callable[[str], None],
) -> list[float]:
    """Rows a second, served ÷ by hand, measured in turns."""
    # Batches of other sizes may round differently, so answers under load are not compared.
    model.first_answer(bench, server, call)
    ratios, samples = [], []
    for _ in range(bench.effort.rounds):
        sample = measure_load(bench, server, call, Expectation(), CLIENTS, "raw_load")
        hand = run_by_hand(bench, model, best)
        samples.append(sample)
        ratios.append(rate_of(sample) / hand.rows_per_second)
    show(line(call, samples, ratios))
    return ratios


def best_by_hand(bench: Bench, model: NativeModel) -> BatchRun:
    """The best size, with the threads of the server: each for a batch, or all for one."""
    threads = worker_threads()
    runs = [
        run
        for batches, intra_op in {(threads, 1), (1, threads)}
        for run in model.bare_runs(bench, SIZES, batches, intra_op)
    ]
    return max(runs, key=lambda run: run.rows_per_second)


def run_by_hand(bench: Bench, model: NativeModel, best: BatchRun) -> BatchRun:
    """The best once more, for the duration of a load."""
    [run] = model.bare_runs(
        bench, [best.size], best.threads, best.intra_op_threads, bench.effort.seconds
    )
    return run


def rate_of(sample: CpuSample) -> float:
    """Rows a second."""
    return sample.load.requests / sample.load.seconds


def line(call: Call, samples: list[CpuSample], ratios: list[float]) -> str:
    """The medians, as printed."""
    rate = statistics.median(map(rate_of, samples))
    cpu = statistics.median(sample.cpu_micros for sample in samples)
    p50 = statistics.median(sample.load.p50_micros for sample in samples) / 1000
    spread = f"{min(ratios):.2f}–{max(ratios):.2f}"
    return (
        f"      {call.protocol}: {rate:.0f} rows/s ({statistics.median(ratios):.2f} × by hand, {spread}),"
        f" CPU of the server {cpu:.0f} µs a row; p50 {p50:.1f} ms"
    )
