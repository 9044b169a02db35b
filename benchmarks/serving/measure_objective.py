"""A server with a latency objective under several loads, against settings that know the model."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass

from bench import QUICK, Bench, Figure
from load import GRPC_PREDICT, Call, predict_request
from measure_convolution import ONE_THREAD, measure_batches
from measure_waits import DEEP_FLOATS, OpenLoad, result, start_open_load
from processes import MODEL, ServerProcess, running_server

SIZES = (1, 2, 4, 8, 16, 32, 64)
MIDDLE = 16
OBJECTIVE = 3
"""The objective is this number of runs of a batch of `MIDDLE` rows: larger batches pay off, but not all of them fit."""

LOADS = (0.5, 0.9, 1.2, 2.0)
"""Loads, as fractions of the rate that the best fixed settings reach."""

LEARNING = 1.0
"""Seconds at the start of each load that are not counted."""

TOLERANCE = 1.1
"""The allowed ratio of the 99th percentile to the objective."""

POOL = {"max_batch_size": SIZES[-1], "num_batch_threads": 1}
"""One thread runs batches; the other processor is for sockets and clients."""


@dataclass(frozen=True)
class Row:
    """One server under one load."""

    name: str
    rate: float
    found: OpenLoad

    @property
    def accepted(self) -> float:
        """The answered requests per second."""
        return self.found.accepted["requests"] / self.found.seconds

    @property
    def p99_millis(self) -> float:
        """The 99th percentile of their latency."""
        return self.found.accepted["p99_micros"] / 1000

    @property
    def refused(self) -> float:
        """The fraction of the requests that were refused."""
        refused = self.found.refused["requests"]
        return refused / (refused + self.found.accepted["requests"])

    def line(self) -> str:
        """The row of the table."""
        return (
            f"  {self.name:<44} {self.rate:>9.0f} {self.accepted:>10.0f} {self.refused:>8.1%}"
            f" {self.found.accepted['p50_micros'] / 1000:>8.1f} {self.p99_millis:>8.1f}"
            f" {self.found.refused['p99_micros'] / 1000:>11.2f}"
        )


def measure_objective(bench: Bench, show: Callable[[str], None]) -> list[Figure]:
    """A latency objective, open loads: times of accepted requests, and the rate beside the best fixed settings."""
    base_path = bench.export("deep")
    runs = measure_batches(
        bench, base_path, SIZES, [1], intra_op_threads=1, seconds=bench.effort.seconds
    )
    run_millis = {run.size: run.size / run.rows_per_second * 1000 for run in runs}
    objective = OBJECTIVE * run_millis[MIDDLE]
    times = ", ".join(f"{size}: {millis:.1f}" for size, millis in run_millis.items())
    show(f"  ms a batch, in a bare loop: {times}; objective {objective:.1f} ms")
    body = bench.scratch / "deep.pb"
    row = struct.pack(f"<{DEEP_FLOATS}f", *[0.5] * DEEP_FLOATS)
    body.write_bytes(predict_request(row, DEEP_FLOATS))
    call = Call("grpc", GRPC_PREDICT, body)
    show(
        f"  {'':<44} {'requests/s':>9} {'answered/s':>10} {'refused':>8} {'p50 ms':>8} {'p99 ms':>8}"
        f" {'p99 refused':>11}"
    )
    most = max(run.rows_per_second for run in runs)
    fixed = [
        measure_fixed(bench, call, size, queued, LOADS[-1] * most, show)
        for size, queued in fixed_settings(run_millis, objective)
    ]
    in_time = [each for each in fixed if each.p99_millis <= TOLERANCE * objective]
    best = max((each.accepted for each in in_time), default=math.nan)
    rows = measure_adaptive(bench, call, objective, [load * best for load in LOADS], show)
    return [
        Figure(
            "latency objective: p99 of accepted requests, the worst of all loads",
            max(each.p99_millis for each in rows) / objective,
            "×",
            TOLERANCE,
        ),
        Figure(
            "2 × overload: answered a second ÷ best fixed settings in time",
            rows[-1].accepted / best,
            "×",
            0.8,
            is_floor=True,
        ),
        Figure("half load: refused", rows[0].refused, "", 0.001, digits=4),
        Figure(
            "2 × overload: p99 of refused", rows[-1].found.refused["p99_micros"] / 1000, "ms", 1
        ),
    ]


def fixed_settings(run_millis: dict[int, float], objective: float) -> list[tuple[int, int]]:
    """Candidate sizes and queue lengths whose answers should be in time: the maximum, and one less.

    One batch runs. The others in the queue must finish, one after the other, within the objective.
    """
    settings = []
    for size, millis in run_millis.items():
        most = int(objective / millis) - 1
        settings += [(size, queued) for queued in (most - 1, most) if queued >= 1]
    return settings


def measure_fixed(
    bench: Bench, call: Call, size: int, queued: int, rate: float, show: Callable[[str], None]
) -> Row:
    """The answers, and their latency, with greedy batching and these limits."""
    flags = bench.batching(
        max_batch_size=size,
        batch_timeout_micros=0,
        max_enqueued_batches=queued,
        num_batch_threads=1,
    )
    with running_server(bench.export("deep"), bench.log, ONE_THREAD, *flags) as server:
        return measure_rate(
            bench, server, call, f"max_batch_size {size}, max_enqueued_batches {queued}", rate, show
        )


def measure_adaptive(
    bench: Bench, call: Call, objective: float, rates: list[float], show: Callable[[str], None]
) -> list[Row]:
    """The same for a latency objective, at one rate after the other, with the server's decision at the end of each."""
    config = bench.scratch / "objective.config"
    config.write_text(
        f"""model_config_list {{ config {{
            name: "{MODEL}" base_path: "{bench.export("deep")}" model_platform: "tensorflow"
            servable_options {{ batching_policy {{ latency_objective_millis: {objective} }} }} }} }}"""
    )
    flags = [ONE_THREAD, f"--model_config_file={config}", *bench.batching(**POOL)]
    rows = []
    with running_server(bench.export("deep"), bench.log, *flags) as server:
        for load, rate in zip(LOADS, rates, strict=True):
            name = f"objective {objective:.1f} ms, {load:g} × the best of these"
            rows.append(measure_rate(bench, server, call, name, rate, show))
            show(f"    {decision(server)}")
    return rows


def measure_rate(
    bench: Bench,
    server: ServerProcess,
    call: Call,
    name: str,
    rate: float,
    show: Callable[[str], None],
) -> Row:
    """Send requests at a fixed rate, independent of the answers."""
    server.wait_until_answers(json.dumps({"instances": [[0.5] * DEEP_FLOATS]}).encode())
    seconds = LEARNING + (2.0 if bench.effort is QUICK else 8.0)
    row = Row(name, rate, result(start_open_load(bench, server, call, rate, seconds, LEARNING)))
    show(row.line())
    return row


def decision(server: ServerProcess) -> str:
    """The server's current decision, from its batching page."""
    _, page = server.request("GET", f"/v1/models/{MODEL}/batching")
    [version] = json.loads(page)["versions"]
    return json.dumps(version["queues"][0]["adaptive"])
