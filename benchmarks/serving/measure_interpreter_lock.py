"""Whether requests need the interpreter's lock: throughput while another thread holds it."""

from __future__ import annotations

import contextlib
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import CONNECTIONS, Bench, Figure, save_answer
from load import OUTPUT, REST_BODY, Call, Expectation, write_calls
from measure_cpu import WARM_UP_SECONDS, measure_load
from native import native_model, served_kinds
from processes import ServerProcess, free_port, running

MARGIN_SECONDS = 1.0
"""How much longer the lock is held than the load lasts."""

PYTHON_MODEL = """
from servable.signature import TensorSpec, serves


@serves(inputs={"x": TensorSpec("float32", [None])}, outputs={"y": TensorSpec("float32", [None])})
def half_plus_two(inputs):
    return {"y": inputs["x"] * 0.5 + 2}
"""


@dataclass(frozen=True)
class LockedServer:
    """A server whose interpreter's lock can be held."""

    server: ServerProcess

    @contextlib.contextmanager
    def held(self, seconds: float) -> Iterator[None]:
        """Hold the lock from the beginning of the block to its end, which must come within this time."""
        process = self.server.process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{math.ceil(seconds + MARGIN_SECONDS)}\n".encode())
        process.stdin.flush()
        self._expect(b"held\n")
        yield
        self._expect(b"released\n")

    def _expect(self, line: bytes) -> None:
        assert self.server.process.stdout is not None
        found = self.server.process.stdout.readline()
        if found != line:
            raise RuntimeError(f"the server printed {found!r}; run it by hand to see why")


def measure_interpreter_lock(bench: Bench, show: Callable[[str], None]) -> list[Figure]:
    """Requests a second while a thread of the server's process holds the interpreter's lock ÷ while none does."""
    figures = []
    show(f"  {'':<22} {'requests/s':<34} CPU µs a request")
    for kind in ("tensorflow", *served_kinds()):
        base_path = (
            bench.model.parent if kind == "tensorflow" else native_model(kind, "small").base_path
        )
        with lockable_server(bench, kind, base_path) as locked:
            for call, expectation in calls_of(bench, kind, locked.server):
                rounds = [
                    measure_round(bench, locked, call, expectation, is_held_first=number % 2 == 0)
                    for number in range(bench.effort.rounds)
                ]
                rates = [held.rate / free.rate for held, free in rounds]
                cpu = statistics.median(held.cpu_micros / free.cpu_micros for held, free in rounds)
                ratio = statistics.median(rates)
                rate = statistics.median(free.rate for _, free in rounds)
                micros = statistics.median(free.cpu_micros for _, free in rounds)
                show(
                    f"  {kind:<16} {call.protocol:<5} {rate:>7.0f}, held {ratio:.3f} ×"
                    f" ({min(rates):.3f}–{max(rates):.3f})  {micros:>5.1f}, held {cpu:.3f} ×"
                )
                figure = f"{kind}, {call.protocol}: requests/s, interpreter's lock held ÷ free"
                figures.append(Figure(figure, ratio, "×", 0.98, is_floor=True, digits=3))
    rate = held_python_model(bench)
    show(f"  {'a Python model':<16} rest  {rate:>7.0f} requests/s with the lock held")
    return figures


def calls_of(bench: Bench, kind: str, server: ServerProcess) -> list[tuple[Call, Expectation]]:
    """Requests for a model, with the answer to each."""
    if kind == "tensorflow":
        server.wait_until_answers(REST_BODY, OUTPUT)
        calls = write_calls(bench.scratch)
        return [(call, Expectation(answer=save_answer(bench, server, call))) for call in calls]
    model = native_model(kind, "small")
    call, _ = model.calls(bench, server)
    return [(call, model.first_answer(bench, server, call))]


@contextlib.contextmanager
def lockable_server(bench: Bench, kind: str, base_path: Path) -> Iterator[LockedServer]:
    """Run the server for one model until the end of the block."""
    port = free_port()
    program = Path(__file__).with_name("hold_interpreter_lock.py")
    flags = [bench.model_flag(base_path, kind), f"--port={port}", "--rest_api_port=0"]
    with (
        bench.log.open("ab") as log,
        running(
            [sys.executable, str(program), *flags],
            subprocess.PIPE,
            log.fileno(),
            stdin=subprocess.PIPE,
        ) as process,
    ):
        yield LockedServer(ServerProcess(process, port))


@dataclass(frozen=True)
class Sample:
    """Requests a second, and CPU of the server for each of them."""

    rate: float
    cpu_micros: float


def measure_round(
    bench: Bench,
    locked: LockedServer,
    call: Call,
    expectation: Expectation,
    *,
    is_held_first: bool,
) -> tuple[Sample, Sample]:
    """A load with the lock held, and one with the lock free; the order rotates."""
    free = None if is_held_first else measure(bench, locked.server, call, expectation)
    with locked.held(bench.effort.seconds + WARM_UP_SECONDS):
        held = measure(bench, locked.server, call, expectation)
    return held, free or measure(bench, locked.server, call, expectation)


def measure(bench: Bench, server: ServerProcess, call: Call, expectation: Expectation) -> Sample:
    """Put the server under load, after a short load to warm up."""
    sample = measure_load(bench, server, call, expectation)
    return Sample(sample.load.requests / sample.load.seconds, sample.cpu_micros)


def held_python_model(bench: Bench) -> float:
    """The same for a model that needs the lock: what the other figures would show if they needed it."""
    version = bench.scratch / "python" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(PYTHON_MODEL)
    call, _ = write_calls(bench.scratch)
    with lockable_server(bench, "python", version.parent) as locked:
        locked.server.wait_until_answers(REST_BODY, OUTPUT)
        with locked.held(bench.effort.seconds):
            run = bench.load(locked.server, call, Expectation(), connections=CONNECTIONS)
            answered = run.result()
    # What is answered after the release counts as well: one request a connection.
    return max(0, answered.requests - CONNECTIONS) / answered.seconds
