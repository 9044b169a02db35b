"""Greedy batching in the server against none: many clients at once, and one alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from bench import Bench, Figure, require_no_errors, save_answer
from load import Expectation, write_calls
from measure_cpu import CpuSample, measure_load

CLIENTS = 64

GREEDY = {"max_batch_size": 64, "batch_timeout_micros": 0, "max_enqueued_batches": 100}


def measure_batching(bench: Bench, show: Callable[[str], None]) -> list[Figure]:
    """half_plus_two over gRPC, with greedy batching and without: 64 clients at once, and one by itself."""
    _, call = write_calls(bench.scratch)
    crowd: dict[str, list[CpuSample]] = {"unbatched": [], "greedy": []}
    alone: dict[str, list[CpuSample]] = {"unbatched": [], "greedy": []}
    with bench.server() as plain, bench.server(*bench.batching(**GREEDY)) as batched:
        expectation = Expectation(answer=save_answer(bench, plain, call))
        servers = [(plain, "unbatched"), (batched, "greedy")]
        for number in range(bench.effort.rounds):
            # The order changes from round to round: neither is always the one after.
            for server, name in servers if number % 2 == 0 else reversed(servers):
                for connections, samples in ((CLIENTS, crowd), (1, alone)):
                    sample = measure_load(bench, server, call, expectation, connections)
                    require_no_errors(sample.load)
                    samples[name].append(sample)
    show(
        f"  {'':<12} {'':<10} {'requests/s':>10} {'CPU µs a request':>17} {'p50 µs':>8} {'p99 µs':>8}"
    )
    for clients, samples in ((f"{CLIENTS} clients", crowd), ("1 client", alone)):
        for name, found in samples.items():
            rate = statistics.median(rate_of(each) for each in found)
            cpu = statistics.median(each.cpu_micros for each in found)
            p50 = statistics.median(each.load.p50_micros for each in found)
            p99 = statistics.median(each.load.p99_micros for each in found)
            show(f"  {clients:<12} {name:<10} {rate:>10.0f} {cpu:>17.1f} {p50:>8.1f} {p99:>8.1f}")
    return [
        Figure(
            "half_plus_two, 64 gRPC clients: requests/s, greedy ÷ unbatched",
            ratio(crowd, rate_of),
            "×",
            1.5,
            is_floor=True,
        ),
        Figure(
            "one gRPC client: p50, greedy ÷ unbatched",
            ratio(alone, lambda sample: sample.load.p50_micros),
            "×",
            1.1,
        ),
    ]


def rate_of(sample: CpuSample) -> float:
    """Requests a second."""
    return sample.load.requests / sample.load.seconds


def ratio(samples: dict[str, list[CpuSample]], value: Callable[[CpuSample], float]) -> float:
    """The median of the rounds' ratios of greedy to unbatched."""
    pairs = zip(samples["greedy"], samples["unbatched"], strict=True)
    return statistics.median(value(greedy) / value(unbatched) for greedy, unbatched in pairs)
