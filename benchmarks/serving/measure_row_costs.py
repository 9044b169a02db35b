"""turtle3 with more filters, so that a row costs more: from which cost on the server's overhead is negligible."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from bench import QUICK, Bench, Figure
from load import BatchRun, Expectation
from measure_convolution import (
    CLIENTS,
    GREEDY,
    ONE_THREAD,
    measure_batches,
    write_image_calls,
)
from measure_cpu import CpuSample, measure_load
from processes import running_server

MODELS = ("turtle3_96", "turtle3_192", "turtle3_320")
"""turtle3 with this number of filters in each of two layers: about 100, 400 and 1000 µs a row instead of 2."""

SIZES = (1, 8, 32)
"""The sizes of batches made by hand. Larger ones are not faster here."""

PROTOCOLS = ("gRPC", "REST")
"""One row a request."""

ROUNDS = 3

SETTINGS: dict[str, dict[str, int]] = {
    "not batched": {},
    "greedy": GREEDY,
    "greedy, at most half": GREEDY | {"max_batch_size": CLIENTS // 2},
}
"""With the last, no batch takes the requests of all clients while the other thread is idle."""


@dataclass(frozen=True)
class Round:
    """A server and the bare loop, in immediate succession."""

    hand: BatchRun
    served: CpuSample

    @property
    def throughput(self) -> float:
        """Rows a second, served ÷ by hand."""
        return self.served.load.requests / self.served.load.seconds / self.hand.rows_per_second

    @property
    def cpu(self) -> float:
        """CPU of the process for each row, server ÷ bare loop."""
        return self.served.cpu_micros / self.hand.cpu_micros


def measure_row_costs(bench: Bench, show: Callable[[str], None]) -> list[Figure]:
    """turtle3 with more filters, rows/s and CPU a row: 32 clients that send single rows ÷ batches made by hand."""
    figures = []
    bench = dataclasses.replace(bench, effort=QUICK)
    for name in MODELS:
        best = best_by_hand(bench, name)
        cost = best.cpu_micros
        show(
            f"  {name}: {cost:.0f} µs of CPU a row, {best.rows_per_second:.0f} rows/s at best by hand"
            f" ({best.size} rows, {best.threads} threads, intra-op {best.intra_op_threads or 'default'})"
        )
        rounds = measure_rounds(bench, name, best, show)
        for protocol in PROTOCOLS:
            found = max(
                (
                    rounds[setting, protocol]
                    for setting, parameters in SETTINGS.items()
                    if parameters
                ),
                key=throughput_of,
            )
            who = f"turtle3 of {cost:.0f} µs a row, {CLIENTS} {protocol} clients"
            rate = throughput_of(found)
            figures.append(Figure(f"{who}: rows/s ÷ by hand", rate, "×", 0.9, is_floor=True))
    return figures


def throughput_of(rounds: list[Round]) -> float:
    """Rows a second, served ÷ by hand."""
    return statistics.median(each.throughput for each in rounds)


def best_by_hand(bench: Bench, name: str) -> BatchRun:
    """The best combination of size, threads and parallelism, without a server."""
    model = bench.export(name)
    seconds = bench.effort.seconds
    runs = [
        run
        for operation in (0, 1)
        for run in measure_batches(bench, model, SIZES, intra_op_threads=operation, seconds=seconds)
    ]
    return max(runs, key=lambda run: run.rows_per_second)


def measure_rounds(
    bench: Bench, name: str, best: BatchRun, show: Callable[[str], None]
) -> dict[tuple[str, str], list[Round]]:
    """Run servers with each setting, and the bare loop, in turns."""
    calls = write_image_calls(bench.scratch)
    rounds: dict[tuple[str, str], list[Round]] = {}
    for setting, parameters in SETTINGS.items():
        batching = bench.batching(**parameters) if parameters else ()
        with running_server(bench.export(name), bench.log, ONE_THREAD, *batching) as server:
            server.wait_until_answers(calls["REST"].body.read_bytes())
            for _ in range(ROUNDS):
                for protocol in PROTOCOLS:
                    served = measure_load(
                        bench, server, calls[protocol], Expectation(), CLIENTS, "raw_load"
                    )
                    [hand] = measure_batches(
                        bench,
                        bench.export(name),
                        [best.size],
                        [best.threads],
                        intra_op_threads=best.intra_op_threads,
                        seconds=bench.effort.seconds,
                    )
                    rounds.setdefault((setting, protocol), []).append(Round(hand, served))
        for protocol in PROTOCOLS:
            show(line(f"{setting}, {protocol}", rounds[setting, protocol]))
    return rounds


def line(name: str, rounds: list[Round]) -> str:
    """The medians of the rounds, as printed."""
    rate, cpu, client, p50, throughput, ratio = (
        statistics.median(values)
        for values in zip(
            *(
                (
                    each.served.load.requests / each.served.load.seconds,
                    each.served.cpu_micros,
                    each.served.load.cpu_seconds * 1e6 / each.served.load.requests,
                    each.served.load.p50_micros / 1000,
                    each.throughput,
                    each.cpu,
                )
                for each in rounds
            ),
            strict=True,
        )
    )
    return (
        f"    {name:<22} {rate:>7.0f} rows/s ({throughput:.2f} × by hand), CPU µs a row: {cpu:.1f}"
        f" ({ratio:.2f} × by hand), of the clients {client:.1f}; p50 {p50:.1f} ms"
    )
