"""CPU of a request, against the floor of any server on this stack."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench import (
    CONNECTIONS,
    Bench,
    Figure,
    require_no_errors,
    save_answer,
    tensorflow_directory,
)
from load import Call, Expectation, LoadResult, write_calls
from processes import ServerProcess, running_echo

WARM_UP_SECONDS = 0.3


@dataclass(frozen=True)
class CpuSample:
    """One measurement of a server under load."""

    cpu_micros: float
    load: LoadResult


@dataclass
class CpuComparison:
    """The rounds of one model and protocol: the server, and the two floors."""

    name: str
    server: list[CpuSample] = field(default_factory=list)
    echo: list[CpuSample] = field(default_factory=list)
    bare_micros: list[float] = field(default_factory=list)

    def ratio(self) -> float:
        """The median of the rounds' ratios of the server to the sum of the floors."""
        rounds = zip(self.server, self.echo, self.bare_micros, strict=True)
        return statistics.median(
            server.cpu_micros / (echo.cpu_micros + bare) for server, echo, bare in rounds
        )

    def rows(self) -> list[str]:
        """The comparison as lines of a table, see `CPU_TABLE_HEAD`."""

        def row(name: str, samples: list[CpuSample]) -> str:
            cpu = [sample.cpu_micros for sample in samples]
            rate = statistics.median(each.load.requests / each.load.seconds for each in samples)
            p50 = statistics.median(each.load.p50_micros for each in samples)
            p99 = statistics.median(each.load.p99_micros for each in samples)
            spread = f"({min(cpu):.1f}–{max(cpu):.1f})"
            return (
                f"  {self.name:<16} {name:<10} {statistics.median(cpu):>8.1f} {spread:<14}"
                f" {rate:>10.0f} {p50:>8.0f} {p99:>8.0f}"
            )

        bare = statistics.median(self.bare_micros)
        spread = f"({min(self.bare_micros):.1f}–{max(self.bare_micros):.1f})"
        return [
            row("server", self.server),
            row("echo", self.echo),
            f"  {'':<16} {'bare loop':<10} {bare:>8.1f} {spread}",
        ]


CPU_TABLE_HEAD = (
    f"  {'':<27} {'CPU µs a request':<23} {'requests/s':>10} {'p50 µs':>8} {'p99 µs':>8}"
)


def measure_cpu(bench: Bench, show: Callable[[str], None]) -> list[Figure]:
    """CPU of a request against the floors: an echo on the same stack, and the model alone."""
    show(CPU_TABLE_HEAD)
    with bench.server() as server:
        calls = write_calls(bench.scratch)
        expected = [Expectation(answer=save_answer(bench, server, call)) for call in calls]
        rest, grpc = compare_with_floors(
            bench, "", server, calls, expected, lambda: bare_loop_micros(bench), show
        )
    figure = "CPU a request ÷ (echo + bare loop)"
    return [
        Figure(f"REST predict, {figure}", rest.ratio(), "×", 1.6),
        Figure(f"gRPC Predict, {figure}", grpc.ratio(), "×", 1.6),
    ]


def compare_with_floors(
    bench: Bench,
    name: str,
    server: ServerProcess,
    calls: Sequence[Call],
    expected: Sequence[Expectation],
    bare_micros: Callable[[], float],
    show: Callable[[str], None],
) -> list[CpuComparison]:
    """Measure the server and the floors in turns, and show the table; returns the comparison of each call."""
    comparisons = [CpuComparison(f"{name} {call.protocol}".strip()) for call in calls]
    answers = [each.answer for each in expected if each.answer is not None]
    with running_echo(bench.programs / "echo", *answers) as echo:
        for number in range(bench.effort.rounds):
            bare = bare_micros()
            for call, expectation, comparison in zip(calls, expected, comparisons, strict=True):
                comparison.bare_micros.append(bare)
                pair = [(server, comparison.server), (echo, comparison.echo)]
                # The order rotates, so that neither always runs after the other.
                for process, samples in pair if number % 2 == 0 else reversed(pair):
                    samples.append(measure_load(bench, process, call, expectation))
    for comparison in comparisons:
        for row in comparison.rows():
            show(row)
    return comparisons


def measure_load(
    bench: Bench,
    process: ServerProcess,
    call: Call,
    expectation: Expectation,
    connections: int = CONNECTIONS,
    program: str = "load",
    streams: int | None = None,
) -> CpuSample:
    """Put a server under load, and measure its CPU per request."""

    def load(seconds: float) -> LoadResult:
        run = bench.load(
            process,
            call,
            expectation,
            connections=connections,
            seconds=seconds,
            program=program,
            streams=streams,
        )
        return run.result()

    load(WARM_UP_SECONDS)
    before = process.cpu_seconds()
    result = load(bench.effort.seconds)
    spent = process.cpu_seconds() - before
    require_no_errors(result)
    return CpuSample(spent / result.requests * 1e6, result)


def bare_loop_micros(bench: Bench) -> float:
    """The CPU of one run of the model, in the calling thread."""
    command = [
        str(bench.programs / "bare_loop"),
        f"--tensorflow={tensorflow_directory()}",
        f"--model={bench.model}",
        f"--runs={bench.effort.bare_runs}",
    ]
    finished = subprocess.run(command, check=True, capture_output=True, timeout=120)
    return float(finished.stdout)
