"""The time of requests in a queue: on an idle server, and on one with twice the load that it can serve."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from bench import QUICK, Bench, Figure
from load import GRPC_PREDICT, Call, Expectation, predict_request, write_calls
from measure_cpu import measure_load
from processes import ServerProcess, running_server

TIMEOUT_MICROS = 5000
CALM_RATE = 10.0

OVERLOAD = 2.0
DEEP_FLOATS = 8
BOUNDED = {"max_batch_size": 8, "max_enqueued_batches": 4, "num_batch_threads": 1}
"""One thread runs batches; the other processor is for sockets and clients."""


def measure_waits(bench: Bench, show: Callable[[str], None]) -> list[Figure]:
    """What the queue adds: 10 requests a second with a time-out of 5 ms; twice as many as the server can take."""
    return [*measure_timeout(bench, show), *measure_overload(bench, show)]


@dataclass(frozen=True)
class OpenLoad:
    """The results of requests at a fixed rate.

    Attributes:
        seconds: The counted duration.
        errors: The number of failures other than refusals.
        accepted: The number of answers, and percentiles of their latency.
        refused: The same for refusals because of a full queue.
        lag: How late requests were sent.
    """

    seconds: float
    errors: int
    accepted: dict[str, float]
    refused: dict[str, float]
    lag: dict[str, float]


def start_open_load(
    bench: Bench,
    server: ServerProcess,
    call: Call,
    rate: float,
    seconds: float,
    warm_up_seconds: float = 0.5,
) -> subprocess.Popen[bytes]:
    """Start to send requests at a fixed rate; those of the first seconds are not counted."""
    command = [
        str(bench.programs / "open_load"),
        f"--address=127.0.0.1:{server.port}",
        f"--body={call.body}",
        f"--rate={rate}",
        f"--seconds={seconds}",
        f"--warm-up-seconds={warm_up_seconds}",
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def result(process: subprocess.Popen[bytes]) -> OpenLoad:
    """Wait for its end and return the results."""
    output, _ = process.communicate(timeout=120)
    if process.returncode != 0:
        raise RuntimeError("the load generator failed; see above")
    found = OpenLoad(**json.loads(output))
    if found.errors:
        raise RuntimeError(f"{found.errors} requests failed; see above")
    return found


def measure_timeout(bench: Bench, show: Callable[[str], None]) -> list[Figure]:
    """Servers that batch and that do not, and the scheduler alone, all at once: ten requests a second are no load.

    The wait is that of the scheduler alone, from the moment that a request is submitted until its batch is run; through
    sockets it comes with all that may hold up a request on a machine that has just woken up.
    """
    _, call = write_calls(bench.scratch)
    seconds = 5.0 if bench.effort is QUICK else 30.0
    waiting = bench.batching(max_batch_size=64, batch_timeout_micros=TIMEOUT_MICROS)
    command = [
        str(bench.programs / "batch_waits"),
        f"--batch-timeout-micros={TIMEOUT_MICROS}",
        f"--rate={CALM_RATE}",
        f"--seconds={seconds}",
    ]
    with bench.server() as plain, bench.server(*waiting) as batched:
        alone = subprocess.Popen(command, stdout=subprocess.PIPE)
        runs = [start_open_load(bench, each, call, CALM_RATE, seconds) for each in (plain, batched)]
        unbatched, found = map(result, runs)
        waits = json.loads(alone.communicate(timeout=120)[0])
    for name, times in (
        ("server, not batched", unbatched.accepted),
        (f"server, batch_timeout_micros {TIMEOUT_MICROS}", found.accepted),
        ("wait in the scheduler alone", waits),
    ):
        show(
            f"  10 requests/s, {name}: p50 {times['p50_micros']:.0f} µs, p99 {times['p99_micros']:.0f} µs"
        )
    return [
        Figure(
            "10 requests/s, time-out of 5 ms: p99 of the wait",
            waits["p99_micros"] / 1000,
            "ms",
            5.5,
        ),
        Figure(
            "the same through a server: p99, less that without batching",
            (found.accepted["p99_micros"] - unbatched.accepted["p99_micros"]) / 1000,
            "ms",
            5.5,
        ),
    ]


def measure_overload(bench: Bench, show: Callable[[str], None]) -> list[Figure]:
    """A batch takes as long as the server takes for it when there is always a full one.

    The bound of an accepted request: the batches that wait and the one that runs, one after the other.
    """
    body = bench.scratch / "deep.pb"
    body.write_bytes(
        predict_request(struct.pack(f"<{DEEP_FLOATS}f", *[0.5] * DEEP_FLOATS), DEEP_FLOATS)
    )
    call = Call("grpc", GRPC_PREDICT, body)
    rest = json.dumps({"instances": [[0.5] * DEEP_FLOATS]}).encode()
    seconds = 3.0 if bench.effort is QUICK else 8.0
    flags = [*bench.batching(**BOUNDED), "--tensorflow_intra_op_parallelism=1"]
    rows, queued = BOUNDED["max_batch_size"], BOUNDED["max_enqueued_batches"]
    with running_server(bench.export("deep"), bench.log, *flags) as server:
        server.wait_until_answers(rest)
        # As many clients as the queue holds keep it full without refusals.
        sample = measure_load(bench, server, call, Expectation(), rows * queued)
        capacity = sample.load.requests / sample.load.seconds
        found = result(start_open_load(bench, server, call, OVERLOAD * capacity, seconds))
    run_millis = rows / capacity * 1000
    bound = (queued + 1) * run_millis
    show(
        f"  capacity {capacity:.0f} requests/s: {run_millis:.2f} ms for a batch of {rows};"
        f" bound {queued} + 1 batches = {bound:.1f} ms"
    )
    for name, times in (
        ("accepted", found.accepted),
        ("refused", found.refused),
        ("sent late by", found.lag),
    ):
        show(
            f"  {name}: {times['requests'] / found.seconds:.0f}/s, p50 {times['p50_micros'] / 1000:.2f} ms,"
            f" p99 {times['p99_micros'] / 1000:.2f} ms, at most {times['max_micros'] / 1000:.2f} ms"
        )
    return [
        Figure(
            "2 × overload: p99 of accepted requests ÷ bound of the queue",
            found.accepted["p99_micros"] / 1000 / bound,
            "×",
            1.2,
        ),
        Figure(
            "2 × overload: p99 of refused requests", found.refused["p99_micros"] / 1000, "ms", 1
        ),
    ]
