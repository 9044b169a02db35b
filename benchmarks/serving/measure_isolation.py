"""Requests to a model in a worker process, against the same model in the server's process."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import Bench, Figure, require_no_errors
from load import GRPC_PREDICT, REST_BODY, Call, Expectation, predict_request, write_calls
from measure_large import FLOATS
from processes import ServerProcess, running_with_flags

LARGE_CONNECTIONS = 2


def measure_isolation(bench: Bench, show: Callable[[str], None]) -> list[Figure]:
    """`process: true`: the median latency of one client, and the throughput of 16 MB, against runs in the server."""
    figures = []
    with _both(bench, bench.model.parent) as (here, there):
        for call in write_calls(bench.scratch):
            added = []
            for _ in range(bench.effort.rounds):
                p50 = [_p50(bench, server, call) for server in (here, there)]
                show(f"  {call.protocol}: p50 {p50[0]:.0f} µs here, {p50[1]:.0f} µs in a worker")
                added.append(p50[1] - p50[0])
            name = f"{call.protocol}: p50 that a worker process adds"
            figures.append(Figure(name, statistics.median(added), "µs", 120, digits=0))
    request = bench.scratch / "large.pb"
    request.write_bytes(predict_request(bytes(range(256)) * (FLOATS // 64)))
    call = Call("grpc", GRPC_PREDICT, request)
    ratios = []
    with _both(bench, bench.export("identity")) as (here, there):
        for _ in range(bench.effort.rounds):
            rates = [_rate(bench, server, call) for server in (here, there)]
            show(f"  16 MB: {rates[0]:.1f}/s here, {rates[1]:.1f}/s in a worker")
            ratios.append(rates[1] / rates[0])
    name = "gRPC Predict of 16 MB, worker process ÷ server's process"
    return [*figures, Figure(name, statistics.median(ratios), "×", 0.8, is_floor=True)]


@contextlib.contextmanager
def _both(bench: Bench, base_path: Path) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Servers of one model: in the server's process, and in a worker process."""
    with _server(bench, base_path, "") as here, _server(bench, base_path, "process: true") as there:
        yield here, there


@contextlib.contextmanager
def _server(bench: Bench, base_path: Path, options: str) -> Iterator[ServerProcess]:
    flag = bench.model_flag(base_path, "tensorflow", options)
    with running_with_flags(bench.log, flag) as server:
        server.wait_until_answers(REST_BODY)
        yield server


def _p50(bench: Bench, server: ServerProcess, call: Call) -> float:
    for seconds in (0.3, bench.effort.seconds):
        result = bench.load(server, call, Expectation(), connections=1, seconds=seconds).result()
        require_no_errors(result)
    return result.p50_micros


def _rate(bench: Bench, server: ServerProcess, call: Call) -> float:
    for seconds in (1.0, 2 * bench.effort.seconds):
        run = bench.load(
            server, call, Expectation(), connections=LARGE_CONNECTIONS, seconds=seconds
        )
        result = run.result()
        require_no_errors(result)
    return result.requests / result.seconds
