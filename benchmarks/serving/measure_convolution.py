"""A convolutional model in batches of the scheduler, against batches made by hand."""

from __future__ import annotations

import json
import random
import statistics
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import FULL, Bench, Figure, answer_file, save_any_answer, tensorflow_directory
from load import GRPC_PREDICT, BatchRun, Call, Expectation, predict_request
from measure_cpu import measure_load
from processes import PREDICT_PATH, ServerProcess, running_echo, running_server

CLIENTS = 32
FLOATS = 360

GREEDY = {"max_batch_size": 128, "batch_timeout_micros": 0, "max_enqueued_batches": 100}
"""The simplest code, without tuning."""

SWEPT = [
    GREEDY | {"max_batch_size": size, "batch_timeout_micros": timeout, "num_batch_threads": threads}
    for size in (32, 256)
    for timeout in (0, 1000)
    for threads in (1, 2)
]

ONE_THREAD = "--tensorflow_intra_op_parallelism=1"
"""Uses the processors for concurrent batches, instead of for parallelism within each."""


def measure_convolution(bench: Bench, show: Callable[[str], None]) -> list[Figure]:
    """turtle3, rows a second: by hand in a bare loop, by 32 callers of the scheduler, by 32 clients of a server."""
    model = bench.export("turtle3")
    by_hand = [*measure_batches(bench, model), *measure_batches(bench, model, intra_op_threads=1)]
    show("  batches made by hand, in a bare loop: rows/s (CPU µs a row) for each size")
    for operation in (0, 1):
        for threads in (1, 2):
            runs = [r for r in by_hand if (r.intra_op_threads, r.threads) == (operation, threads)]
            row = " ".join(
                f"{r.size}: {r.rows_per_second / 1000:.0f}k ({r.cpu_micros:.1f})" for r in runs
            )
            show(f"    {threads} threads, intra-op {operation or 'default'}  {row}")
    best = max(by_hand, key=lambda run: run.rows_per_second)
    ratios: list[float] = []
    joined: list[BatchRun] = []
    for _ in range(bench.effort.rounds):
        [hand] = measure_batches(
            bench, model, [best.size], [best.threads], intra_op_threads=best.intra_op_threads
        )
        joined = measure_batches(
            bench, model, [CLIENTS // 2, CLIENTS], clients=CLIENTS, intra_op_threads=1
        )
        ratios.append(max(run.rows_per_second for run in joined) / hand.rows_per_second)
    for run in joined:
        show(
            f"  scheduler, {CLIENTS} callers, max_batch_size {run.size}, {run.threads} threads,"
            f" intra-op 1: {run.rows_per_second:.0f} rows/s, {run.cpu_micros:.1f} µs of CPU a row,"
            f" {run.rows_per_run:.1f} rows a run"
        )
    figures = [("callers of the scheduler", statistics.median(ratios))]
    for clients, rate in measure_served(bench, model, show).items():
        figures.append((f"{clients} clients", rate / best.rows_per_second))
    return [
        Figure(f"turtle3, {CLIENTS} {who}: rows/s ÷ best by hand", value, "×", 0.9, is_floor=True)
        for who, value in figures
    ]


def measure_batches(
    bench: Bench,
    base_path: Path,
    sizes: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256),
    threads: Sequence[int] = (1, 2),
    *,
    clients: int = 0,
    intra_op_threads: int = 0,
    seconds: float | None = None,
) -> list[BatchRun]:
    """Run `model_batches`, in a bare loop or, with clients, through the scheduler."""
    command = [
        str(bench.programs / "model_batches"),
        f"--tensorflow={tensorflow_directory()}",
        f"--model={base_path / '1'}",
        f"--sizes={','.join(map(str, sizes))}",
        f"--threads={','.join(map(str, threads))}",
        f"--clients={clients}",
        f"--intra-op-threads={intra_op_threads}",
        f"--seconds={seconds or bench.effort.seconds / 4}",
    ]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [BatchRun(intra_op_threads, **json.loads(line)) for line in printed.splitlines()]


def measure_served(bench: Bench, base_path: Path, show: Callable[[str], None]) -> dict[str, float]:
    """The best rows a second of a server, for each kind of client, and those of an echo for comparison."""
    calls = write_image_calls(bench.scratch)
    settings: list[tuple[dict[str, int], list[str]]] = [({}, []), ({}, [ONE_THREAD])]
    settings += [(GREEDY, []), (GREEDY, [ONE_THREAD])]
    if bench.effort is FULL:
        settings += [(parameters, [ONE_THREAD]) for parameters in SWEPT]
    show(f"  server, {CLIENTS} clients; µs of CPU of the server, and of the clients, for each row")
    best: dict[str, float] = {}
    for parameters, flags in settings:
        batching = bench.batching(**parameters) if parameters else ()
        with running_server(base_path, bench.log, *flags, *batching) as server:
            server.wait_until_answers(calls["REST"].body.read_bytes())
            words = [f"{key} {value}" for key, value in parameters.items()] or ["not batched"]
            show(f"    {', '.join(words + flags)}")
            for name, call in calls.items():
                rate = measure_rows(bench, server, name, call, show)
                best[name] = max(rate, best.get(name, 0))
                save_any_answer(bench, server, call)
    show("    echo, which no server on this stack exceeds")
    for name, call in calls.items():
        answer = answer_file(call)
        with running_echo(bench.programs / "echo", answer, answer) as echo:
            measure_rows(bench, echo, name, call, show)
    return best


ROWS = {"gRPC (8 images)": 8, "gRPC (32 images)": 32}
"""The number of images in a request of each kind of client, where it is not one."""


def measure_rows(
    bench: Bench, server: ServerProcess, name: str, call: Call, show: Callable[[str], None]
) -> float:
    """The rows a second of a server with one kind of client."""
    rows = ROWS.get(name, 1)
    sample = measure_load(bench, server, call, Expectation(), CLIENTS, "raw_load")
    rate = rows * sample.load.requests / sample.load.seconds
    client = sample.load.cpu_seconds * 1e6 / sample.load.requests / rows
    show(
        f"      {name:<17} {rate:>8.0f} rows/s  {sample.cpu_micros / rows:>6.1f} µs"
        f"  {client:>6.1f} µs  p50 {sample.load.p50_micros:.0f} µs"
    )
    return rate


def write_image_calls(directory: Path) -> dict[str, Call]:
    """Write requests with random images."""
    noise = random.Random(0)

    def image() -> list[float]:
        return [round(noise.random(), 4) for _ in range(FLOATS)]

    rest = directory / "image.json"
    rest.write_text(json.dumps({"instances": [image()]}))
    calls = {"REST": Call("rest", PREDICT_PATH, rest)}
    for name, rows in (("gRPC", 1), *ROWS.items()):
        floats = [number for _ in range(rows) for number in image()]
        body = directory / f"images-{rows}.pb"
        body.write_bytes(predict_request(struct.pack(f"<{len(floats)}f", *floats), FLOATS))
        calls[name] = Call("grpc", GRPC_PREDICT, body)
    return calls
