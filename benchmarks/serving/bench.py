"""Shared parts of the measurements: paths, effort, and figures."""

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
from processes import MODEL, ServerProcess, running_server

CONNECTIONS = 16


@dataclass(frozen=True)
class Effort:
    """The effort of a run.

    Attributes:
        rounds: The number of rounds of each comparison; medians are reported.
        seconds: The duration of one measurement of CPU per request.
        starts: The number of timed starts of the server.
        bare_runs: The number of runs of the model by the bare loop in one round.
    """

    rounds: int
    seconds: float
    starts: int
    bare_runs: int


FULL = Effort(rounds=7, seconds=2.0, starts=5, bare_runs=100_000)
QUICK = Effort(rounds=3, seconds=0.7, starts=3, bare_runs=30_000)


@dataclass(frozen=True)
class Bench:
    """The environment of the measurements.

    Attributes:
        programs: The directory of the executables `echo`, `load` and `bare_loop`.
        model: A version directory of half_plus_two.
        scratch: A directory for temporary files.
        effort: The effort of this run.
    """

    programs: Path
    model: Path
    scratch: Path
    effort: Effort

    @property
    def log(self) -> Path:
        """The log file of the servers."""
        return self.scratch / "server.log"

    @contextlib.contextmanager
    def server(self, *flags: str, base_path: Path | None = None) -> Iterator[ServerProcess]:
        """Run the product; yields it after its first correct answer, and stops it at the end of the block."""
        with running_server(base_path or self.model.parent, self.log, *flags) as server:
            server.wait_until_answers(REST_BODY, OUTPUT)
            yield server

    def model_flag(self, base_path: Path, kind: str, options: str = "") -> str:
        """The flag for a server of one model, called `MODEL`, with its kind and its `servable_options`."""
        config = self.scratch / f"{base_path.name}-{kind}-{len(options)}.config"
        config.write_text(
            f'model_config_list {{ config {{ name: "{MODEL}" base_path: "{base_path}" '
            f'model_platform: "{kind}" servable_options {{ {options} }} }} }}'
        )
        return f"--model_config_file={config}"

    def batching(self, **parameters: int) -> tuple[str, str]:
        """The flags for batching with these `BatchingParameters`."""
        file = self.scratch / ("-".join(map(str, parameters.values())) + ".batching")
        lines = (f"{name} {{ value: {value} }}\n" for name, value in parameters.items())
        file.write_text("".join(lines))
        return "--enable_batching", f"--batching_parameters_file={file}"

    def export(self, name: str) -> Path:
        """Export a model of `export_models.py` unless it exists; returns its base path."""
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
        """Start a load generator: `load`, or `raw_load`, which has fewer features and less overhead.

        Over gRPC, `raw_load` can run several callers on each connection, with `streams` concurrent calls.
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


def answer_file(call: Call) -> Path:
    """The file of an answer, for the echo."""
    return call.body.with_suffix(f".{call.protocol}-answer")


def save_any_answer(bench: Bench, server: ServerProcess, call: Call) -> Path:
    """Save the server's answer to a call, for the echo."""
    path = answer_file(call)
    run = bench.load(
        server, call, Expectation(), connections=1, seconds=10, requests=1, save_answer=path
    )
    require_no_errors(run.result())
    return path


def save_answer(bench: Bench, server: ServerProcess, call: Call) -> Path:
    """Save the server's answer to a call, after checking it, for the echo."""
    path = save_any_answer(bench, server, call)
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
    """Refuse a figure that was measured on failures."""
    if result.errors or not result.requests:
        raise RuntimeError(f"{result.errors} requests failed, {result.requests} did not; see above")


@dataclass(frozen=True)
class Figure:
    """One measured value with its goal.

    Attributes:
        name: The name of the measurement.
        value: The measured value.
        unit: The unit of value and goal.
        goal: The limit.
        is_floor: Whether the goal is a lower limit; otherwise an upper one.
        digits: The printed decimals.
    """

    name: str
    value: float
    unit: str
    goal: float
    is_floor: bool = False
    digits: int = 2

    @property
    def is_reached(self) -> bool:
        """Whether the value meets the goal."""
        compare = operator.ge if self.is_floor else operator.le
        return bool(compare(self.value, self.goal))

    def line(self) -> str:
        """The printed line."""
        value = f"{self.value:.{self.digits}f} {self.unit}"
        goal = f"{'≥' if self.is_floor else '≤'} {self.goal:g} {self.unit}"
        return f"{self.name:<58} {value:>12}   goal {goal:<10} {'reached' if self.is_reached else 'MISSED'}"
