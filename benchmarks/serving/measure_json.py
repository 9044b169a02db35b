"""Large JSON bodies, against Python's tools."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench import Bench, Figure, require_no_errors
from load import Call, Expectation
from processes import PREDICT_PATH, ServerProcess

JSON_BYTES = 1_000_000


def measure_json(bench: Bench, show: Callable[[str], None]) -> list[Figure]:
    """A megabyte of JSON floats, against what Python's own tools take for the same bytes."""
    values = np.random.default_rng(0).random(JSON_BYTES // 11).astype(np.float32)
    body = b'{"instances": [' + ", ".join(map(str, values)).encode() + b"]}"
    body = body[: body.rindex(b",", 0, JSON_BYTES)] + b"]}"
    request = bench.scratch / "floats.json"
    request.write_bytes(body)
    call = Call("rest", PREDICT_PATH, request)
    python_wall: list[float] = []
    python_cpu: list[float] = []
    server_wall: list[float] = []
    server_cpu: list[float] = []
    with bench.server() as server:
        expectation = Expectation(answer=save_floats_answer(bench, server, call, body))
        for _ in range(bench.effort.rounds):
            wall, cpu = python_round_trip(body, bench.effort.seconds / 2)
            python_wall.append(wall)
            python_cpu.append(cpu)
            before = server.cpu_seconds()
            result = bench.load(server, call, expectation, connections=1).result()
            require_no_errors(result)
            server_cpu.append((server.cpu_seconds() - before) / result.requests)
            server_wall.append(result.p50_micros / 1e6)

    def ratio(python: list[float], product: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(python, product, strict=True))

    def row(name: str, wall: list[float], cpu: list[float]) -> str:
        millis = [statistics.median(seconds) * 1e3 for seconds in (wall, cpu)]
        return f"  {name}: {millis[0]:.2f} ms wall, {millis[1]:.2f} ms CPU for {len(body)} bytes"

    show(row("Python", python_wall, python_cpu))
    show(row("server", server_wall, server_cpu))
    return [
        Figure(
            "1 MB of JSON, Python's wall time ÷ server's (1 connection)",
            ratio(python_wall, server_wall),
            "×",
            5,
            is_floor=True,
        ),
        Figure(
            "1 MB of JSON, Python's CPU ÷ server's",
            ratio(python_cpu, server_cpu),
            "×",
            5,
            is_floor=True,
        ),
    ]


def save_floats_answer(bench: Bench, server: ServerProcess, call: Call, body: bytes) -> Path:
    """Save the server's answer to the large request, after checking it."""
    status, answer = server.request("POST", call.path, body)
    if status != 200:
        raise RuntimeError(f"the large request is answered with {status}: {answer[:200]!r}")
    values = np.array(json.loads(body)["instances"], np.float32)
    found = np.array(json.loads(answer)["predictions"], np.float32)
    np.testing.assert_allclose(found, values / 2 + 2, rtol=1e-6)
    path = bench.scratch / "floats-answer.json"
    path.write_bytes(answer)
    return path


def python_round_trip(body: bytes, seconds: float) -> tuple[float, float]:
    """The wall time and the CPU, in seconds, of decoding and encoding the floats in Python."""
    count = 0
    wall, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() < wall + seconds:
        array = np.array(json.loads(body)["instances"])
        json.dumps({"predictions": array.tolist()})
        count += 1
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count
