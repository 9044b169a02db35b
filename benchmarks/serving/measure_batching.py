"""The server with greedy batching against the server without: many clients, and one client."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable

from bench import Bench, Figure, save_answer
from load import Expectation, write_calls
from measure_cpu import CpuSample, measure_load
from processes import ServerProcess, running_echo

CLIENTS = 64
STREAMS = 16
"""How many clients share a connection, as callers share a channel of a gRPC client."""

GREEDY = {"max_batch_size": 64, "batch_timeout_micros": 0, "max_enqueued_batches": 100}

IN_POOL = "--tensorflow_run_in_caller_thread=false"
"""As TensorFlow Serving runs a model: handed to a pool of threads of the runtime."""

SERVERS = ("unbatched", "greedy", "in the pool", "echo")
"""The echo neither decodes nor runs a model: its rate is an upper limit for any kind of batching."""


def measure_batching(bench: Bench, show: Callable[[str], None]) -> list[Figure]:
    """half_plus_two over gRPC, greedy batching and none: 64 clients, the same on 4 connections, one by itself."""
    calls = write_calls(bench.scratch)
    call = calls[1]
    crowd: dict[str, list[CpuSample]] = {name: [] for name in SERVERS}
    sharing: dict[str, list[CpuSample]] = {name: [] for name in SERVERS}
    alone: dict[str, list[CpuSample]] = {name: [] for name in SERVERS}
    crowds = ((CLIENTS, 1, crowd), (CLIENTS // STREAMS, STREAMS, sharing), (1, 1, alone))
    with contextlib.ExitStack() as stack:
        flags = {"unbatched": (), "greedy": bench.batching(**GREEDY), "in the pool": (IN_POOL,)}
        servers: dict[str, ServerProcess] = {
            name: stack.enter_context(bench.server(*each)) for name, each in flags.items()
        }
        answers = [save_answer(bench, servers["unbatched"], each) for each in calls]
        servers["echo"] = stack.enter_context(running_echo(bench.programs / "echo", *answers))
        expectation = Expectation(answer=answers[1])
        for number in range(bench.effort.rounds):
            # The order rotates, so that no server always runs after the same other one.
            for name in SERVERS if number % 2 == 0 else reversed(SERVERS):
                for connections, streams, samples in crowds:
                    sample = measure_load(
                        bench, servers[name], call, expectation, connections, "raw_load", streams
                    )
                    samples[name].append(sample)
    show(
        f"  {'':<18} {'':<12} {'requests/s':>10} {'CPU µs a request':>17} {'p50 µs':>8} {'p99 µs':>8}"
    )
    for connections, streams, samples in crowds:
        clients = f"{connections} connections" + (f" × {streams}" if streams > 1 else "")
        for name, found in samples.items():
            rate = statistics.median(rate_of(each) for each in found)
            cpu = statistics.median(each.cpu_micros for each in found)
            p50 = statistics.median(each.load.p50_micros for each in found)
            p99 = statistics.median(each.load.p99_micros for each in found)
            show(f"  {clients:<18} {name:<12} {rate:>10.0f} {cpu:>17.1f} {p50:>8.1f} {p99:>8.1f}")
    return [
        Figure(
            "half_plus_two, 64 gRPC clients: requests/s, greedy ÷ unbatched",
            ratio(crowd, "greedy", "unbatched", rate_of),
            "×",
            1.5,
            is_floor=True,
        ),
        Figure(
            "the same, greedy ÷ unbatched in the runtime's pool",
            ratio(crowd, "greedy", "in the pool", rate_of),
            "×",
            1.5,
            is_floor=True,
        ),
        Figure(
            "one gRPC client: p50, greedy ÷ unbatched",
            ratio(alone, "greedy", "unbatched", lambda sample: sample.load.p50_micros),
            "×",
            1.1,
        ),
    ]


def rate_of(sample: CpuSample) -> float:
    """Requests a second."""
    return sample.load.requests / sample.load.seconds


def ratio(
    samples: dict[str, list[CpuSample]],
    one: str,
    other: str,
    value: Callable[[CpuSample], float],
) -> float:
    """The median of the rounds' ratios of one server to another."""
    pairs = zip(samples[one], samples[other], strict=True)
    return statistics.median(value(a) / value(b) for a, b in pairs)
