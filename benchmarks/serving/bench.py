"""What the measurements share: where things are, how much to measure, and the figures that come out."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import operator
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from load import OUTPUT, REST_BODY, Call, Expectation, LoadResult, LoadRun, packed_output
from processes import ServerProcess, running_server

CONNECTIONS = 16


@dataclass(frozen=True)
class Effort:
    """How much to measure.

    Attributes:
        rounds: How often each pair of things is compared; medians are reported.
        seconds: How long one measurement of CPU per request takes.
        starts: How often the server is started to time it.
        bare_runs: How many runs of the model the bare loop does in one round.
    """

    rounds: int
    seconds: float
    starts: int
    bare_runs: int


FULL = Effort(rounds=7, seconds=2.0, starts=5, bare_runs=100_000)
QUICK = Effort(rounds=3, seconds=0.7, starts=3, bare_runs=30_000)


@dataclass(frozen=True)
class Bench:
    """Where things are.

    Attributes:
        programs: The directory of the executables `echo`, `load` and `bare_loop`.
        model: A version directory of half_plus_two.
        scratch: A directory for files that nobody needs afterwards.
        effort: How much to measure.
    """

    programs: Path
    model: Path
    scratch: Path
    effort: Effort

    @property
    def log(self) -> Path:
        """Where the servers write."""
        return self.scratch / "server.log"

    @contextlib.contextmanager
    def server(self, *flags: str, base_path: Path | None = None) -> Iterator[ServerProcess]:
        """Run the product until it has given a correct answer, and on until the block is left."""
        with running_server(base_path or self.model.parent, self.log, *flags) as server:
            server.wait_until_answers(REST_BODY, OUTPUT)
            yield server

    def batching(self, **parameters: int) -> tuple[str, str]:
        """The flags for batching with these `BatchingParameters`."""
        file = self.scratch / ("-".join(map(str, parameters.values())) + ".batching")
        lines = (f"{name} {{ value: {value} }}\n" for name, value in parameters.items())
        file.write_text("".join(lines))
        return "--enable_batching", f"--batching_parameters_file={file}"

    def export(self, name: str) -> Path:
        """Export a model of `export_models.py`, if that was not done yet; give its base path."""
        base_path = self.scratch / "models" / name
        if not base_path.exists():
            script = Path(__file__).with_name("export_models.py")
            command = [sys.executable, str(script), str(base_path.parent), name]
            subprocess.run(command, check=True, capture_output=True)
        return base_path

    def load(
        self,
        server: ServerProcess,
        call: Call,
        expectation: Expectation,
        *,
        connections: int = CONNECTIONS,
        seconds: float | None = None,
        requests: int | None = None,
        save_answer: Path | None = None,
        program: str = "load",
        streams: int | None = None,
    ) -> LoadRun:
        """Start a load generator: `load`, or `raw_load`, which can do less for less.

        Over gRPC, the latter can have several callers share each connection, so many `streams` at once.
        """
        return LoadRun(
            self.programs / program,
            server,
            call,
            expectation,
            connections=connections,
            seconds=self.effort.seconds if seconds is None else seconds,
            requests=requests,
            save_answer=save_answer,
            streams=streams,
        )


def save_answer(bench: Bench, server: ServerProcess, call: Call) -> Path:
    """Write the server's answer to a call, once it is known to be right, for the echo to give."""
    path = bench.scratch / f"answer.{call.protocol}"
    run = bench.load(
        server, call, Expectation(), connections=1, seconds=10, requests=1, save_answer=path
    )
    require_no_errors(run.result())
    answer = path.read_bytes()
    is_right = (
        json.loads(answer) == {"predictions": OUTPUT}
        if call.protocol == "rest"
        else packed_output() in answer
    )
    if not is_right:
        raise RuntimeError(f"the server gives a wrong answer over {call.protocol}: {answer!r}")
    return path


def tensorflow_directory() -> Path:
    """The directory of the installed `tensorflow` package."""
    specification = importlib.util.find_spec("tensorflow")
    if specification is None or not specification.submodule_search_locations:
        raise RuntimeError("TensorFlow is not installed")
    return Path(specification.submodule_search_locations[0])


def require_no_errors(result: LoadResult) -> None:
    """A figure that was measured on failures is none."""
    if result.errors or not result.requests:
        raise RuntimeError(f"{result.errors} requests failed, {result.requests} did not; see above")


@dataclass(frozen=True)
class Figure:
    """One number with the goal it has to reach.

    Attributes:
        name: What was measured.
        value: What was found.
        unit: Of the value and of the goal.
        goal: The limit.
        is_floor: Whether the value has to be at least the goal, instead of at most.
        digits: Decimals to print.
    """

    name: str
    value: float
    unit: str
    goal: float
    is_floor: bool = False
    digits: int = 2

    @property
    def is_reached(self) -> bool:
        """Whether the value is on the right side of the goal."""
        compare = operator.ge if self.is_floor else operator.le
        return bool(compare(self.value, self.goal))

    def line(self) -> str:
        """The figure as it is printed."""
        value = f"{self.value:.{self.digits}f} {self.unit}"
        goal = f"{'≥' if self.is_floor else '≤'} {self.goal:g} {self.unit}"
        return f"{self.name:<58} {value:>12}   goal {goal:<10} {'reached' if self.is_reached else 'MISSED'}"
