"""Small models of the native runtimes: CPU of a request against the floors, and the latency of one client."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from bench import Bench, Figure, require_no_errors, save_answer
from load import Call, Expectation, write_calls
from measure_cpu import (
    CPU_TABLE_HEAD,
    WARM_UP_SECONDS,
    CpuComparison,
    bare_loop_micros,
    compare_with_floors,
)
from native import native_model, served_kinds
from processes import ServerProcess, running_with_flags


def measure_native(bench: Bench, show: Callable[[str], None]) -> list[Figure]:
    """Small models of each native runtime: CPU of a request against echo and bare C calls, latency of one client."""
    show(CPU_TABLE_HEAD)
    with bench.server() as server:
        calls = write_calls(bench.scratch)
        expected = [Expectation(answer=save_answer(bench, server, call)) for call in calls]
        ratios_of_tensorflow = [
            comparison.ratio()
            for comparison in compare_with_floors(
                bench, "tensorflow", server, calls, expected, lambda: bare_loop_micros(bench), show
            )
        ]
    return [
        figure
        for kind in served_kinds()
        for figure in measure_kind(bench, kind, ratios_of_tensorflow, show)
    ]


def measure_kind(
    bench: Bench, kind: str, ratios_of_tensorflow: Sequence[float], show: Callable[[str], None]
) -> list[Figure]:
    """The figures of one kind."""
    model = native_model(kind, "small")

    def bare_micros() -> float:
        [run] = model.bare_runs(bench)
        return run.cpu_micros

    with running_with_flags(bench.log, bench.model_flag(model.base_path, kind)) as server:
        calls = model.calls(bench, server)
        expected = [model.first_answer(bench, server, call) for call in calls]
        comparisons = compare_with_floors(bench, kind, server, calls, expected, bare_micros, show)
        figures = []
        for comparison, of_tensorflow in zip(comparisons, ratios_of_tensorflow, strict=True):
            figures += ratio_figures(comparison, of_tensorflow)
        for call, expectation in zip(calls, expected, strict=True):
            added = [
                one_client_p50(bench, server, call, expectation)
                - 1e6 / model.bare_runs(bench)[0].rows_per_second
                for _ in range(bench.effort.rounds)
            ]
            show(
                f"  {kind} {call.protocol}, one client: p50 beyond the bare run {spread(added)} µs"
            )
            figures.append(
                Figure(
                    f"{kind}, {call.protocol}: p50 of one client beyond the bare run",
                    statistics.median(added),
                    "µs",
                    110,
                    digits=0,
                )
            )
    return figures


def ratio_figures(comparison: CpuComparison, of_tensorflow: float) -> list[Figure]:
    """A ratio with its two goals."""
    name, ratio = comparison.name.replace(" ", ", "), comparison.ratio()
    return [
        Figure(f"{name}: CPU a request ÷ (echo + bare call)", ratio, "×", 1.4),
        Figure(f"{name}: this ratio ÷ that of TensorFlow", ratio / of_tensorflow, "×", 1),
    ]


def one_client_p50(
    bench: Bench, server: ServerProcess, call: Call, expectation: Expectation
) -> float:
    """The median latency of one connection."""
    for seconds in (WARM_UP_SECONDS, bench.effort.seconds / 2):
        result = bench.load(server, call, expectation, connections=1, seconds=seconds).result()
        require_no_errors(result)
    return result.p50_micros


def spread(values: Sequence[float]) -> str:
    """Median, and range."""
    return f"{statistics.median(values):.0f} ({min(values):.0f}–{max(values):.0f})"
