"""Swap versions of two models under load from both protocols: does one fail, and does a swap slow the other model?

usage: swaps.py [--swaps=N] [--connections=N]        (needs the `tensorflow` package)

Two models of 60 MB get requests all the time over REST and gRPC, in closed loops. After a phase at rest, one of the
models gets newer versions repeatedly, then the other. The figure is the 99th percentile of the model that does not
change, by protocol: while the other one loads, relative to rest. Rest is measured before, between and after the swaps,
because the speed of the machine drifts. Swaps follow each other without a pause, so that loads take most of the time.
The process that swaps versions would run on another machine. Here it has the lowest priority, to reduce its influence.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from control import Operator
from served import (
    FULL,
    OUTPUT,
    Bench,
    Call,
    Expectation,
    Figure,
    LoadResult,
    ServerProcess,
    build_programs,
    config_text,
    packed_output,
    running_configured,
    wait_until,
    write_calls,
)

# Names of equal length, so that replacing the name in a gRPC request gives the request for the other model.
MODELS = ("half_plus_two", "half_plus_2nd")
ROUNDS = 4
REST_SECONDS = 4.0
LOOK_SECONDS = 0.03
SWAP_SECONDS = 60.0

EXPORT = """
import sys
import tensorflow as tf
v1 = tf.compat.v1
with tf.Graph().as_default(), v1.Session() as session:
    x = v1.placeholder(tf.float32, [None], "x")
    v1.get_variable("ballast", initializer=tf.random.stateless_uniform([int(sys.argv[2]), 2**18], (1, 2)))
    y = v1.get_variable("slope", initializer=0.5) * x + 2.0
    session.run(v1.global_variables_initializer())
    v1.saved_model.simple_save(session, sys.argv[1], {"x": x}, {"y": y})
"""


@dataclass(frozen=True)
class Phase:
    """The results of one phase.

    Attributes:
        swapped: The model that got newer versions; `None` at rest.
        results: The results of each load generator, by model and protocol.
    """

    swapped: str | None
    results: dict[tuple[str, str], LoadResult]


class Swapping:
    """A server with two models, and the load on both."""

    def __init__(self, bench: Bench, server: ServerProcess, version: Path, root: Path) -> None:
        """Prepare the models.

        Args:
            bench: The environment of the measurements.
            server: The server.
            version: The version directory that every version links to.
            root: The directory of the base paths.
        """
        self._bench = bench
        self._server = server
        self._version = version
        self._root = root
        self._operator = Operator(server)
        self._aside = ThreadPoolExecutor(1, "swaps", _take_the_lowest_priority)
        self._latest = dict.fromkeys(MODELS, 0)

    def link_next(self, model: str) -> int:
        """Add the next version, and remove the one before the last."""
        self._latest[model] = latest = self._latest[model] + 1
        (self._root / model / str(latest)).symlink_to(self._version)
        (self._root / model / str(latest - 2)).unlink(missing_ok=True)
        return latest

    def entries(self) -> list[str]:
        """The configuration."""
        return [
            f'config {{ name: "{model}" base_path: "{self._root / model}" '
            'model_platform: "tensorflow" }'
            for model in MODELS
        ]

    def swap(self, model: str) -> None:
        """Replace the served version. A reload makes the server poll at once."""
        version = self.link_next(model)
        code = self._operator.reload(self.entries())
        if code != "OK":
            raise RuntimeError(f"the reload was answered {code}")
        end = time.monotonic() + SWAP_SECONDS
        while not self.serves_only(model, version):
            if time.monotonic() > end:
                raise RuntimeError(f"version {version} is not served after {SWAP_SECONDS} s")
            time.sleep(LOOK_SECONDS)

    def serves_only(self, model: str, version: int) -> bool:
        """Whether the version is available, and no other one is loaded or loading."""
        states = self._operator.states(model)
        return {v for v, (state, _) in states.items() if state != "END"} == {version} and (
            states[version][0] == "AVAILABLE"
        )

    def _change(self, swapped: str | None, swaps: int) -> None:
        """Swap versions of a model, or at rest only do the accompanying work for a while."""
        if swapped is not None:
            for _ in range(swaps):
                self.swap(swapped)
            return
        # A swap polls the status until it is complete; at rest the same polls are made.
        end = time.monotonic() + REST_SECONDS
        while time.monotonic() < end:
            self.serves_only(MODELS[0], self._latest[MODELS[0]])
            time.sleep(LOOK_SECONDS)

    def measure(self, swapped: str | None, swaps: int, connections: int) -> Phase:
        """Send requests to both models over both protocols, during swaps or for a while at rest."""
        with contextlib.ExitStack() as running:
            runs = {
                (model, call.protocol): self._bench.load(
                    self._server, call, expectation, connections=connections, seconds=600
                )
                for model in MODELS
                for call, expectation in self._calls(model)
            }
            for run in runs.values():
                running.callback(run.stop)
            self._aside.submit(self._change, swapped, swaps).result()
        return Phase(swapped, {key: run.result() for key, run in runs.items()})

    def _calls(self, model: str) -> list[tuple[Call, Expectation]]:
        part = self._bench.scratch / "output.bin"
        part.write_bytes(packed_output())
        calls = []
        for call in write_calls(self._bench.scratch):
            body = self._bench.scratch / f"{model}.{call.protocol}"
            body.write_bytes(call.body.read_bytes().replace(MODELS[0].encode(), model.encode()))
            calls.append(
                (
                    Call(call.protocol, call.path.replace(MODELS[0], model), body),
                    Expectation(part=part if call.protocol == "grpc" else self._rest_part()),
                )
            )
        return calls

    def _rest_part(self) -> Path:
        path = self._bench.scratch / "numbers.json"
        path.write_text(", ".join(map(str, OUTPUT)))
        return path


def _take_the_lowest_priority() -> None:
    if sys.platform == "linux":  # on other systems a thread has no separate priority
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def ratios(phases: list[Phase], protocol: str) -> list[float]:
    """The ratios of the unchanged model's 99th percentile during swaps to that in the adjacent phases at rest."""
    found = []
    for before, phase, after in zip(phases[::2], phases[1::2], phases[2::2], strict=False):
        other = next(model for model in MODELS if model != phase.swapped)
        rest = [each.results[other, protocol].p99_micros for each in (before, after)]
        found.append(phase.results[other, protocol].p99_micros / statistics.mean(rest))
    return found


def main() -> int:
    """Swap, and print the result."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--connections", type=int, default=1, help="for each model and protocol")
    parser.add_argument("--megabytes", type=int, default=60, help="the size of the models")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="servable-swaps-") as directory:
        scratch = Path(directory)
        version = scratch / "version"
        export = [sys.executable, "-c", EXPORT, str(version), str(arguments.megabytes)]
        subprocess.run(export, check=True, stderr=subprocess.DEVNULL)
        base_paths = {model: scratch / model for model in MODELS}
        config = scratch / "models.config"
        config.write_text(config_text(base_paths))
        for path in base_paths.values():
            path.mkdir()
        bench = Bench(build_programs(), version, scratch, FULL)
        with running_configured(config, bench.log) as server:
            swapping = Swapping(bench, server, version, scratch)
            for model in MODELS:
                number = swapping.link_next(model)
                wait_until(lambda m=model, n=number: swapping.serves_only(m, n))  # type: ignore[misc]
            phases = [swapping.measure(None, 0, arguments.connections)]
            for number in range(ROUNDS):
                swapped = MODELS[number % len(MODELS)]
                count = arguments.swaps // ROUNDS
                phases.append(swapping.measure(swapped, count, arguments.connections))
                phases.append(swapping.measure(None, 0, arguments.connections))
    return judge(phases, arguments.swaps)


def judge(phases: list[Phase], swaps: int) -> int:
    """Print each phase, and the figures."""
    for phase in phases:
        shown = [
            f"{model} {protocol} {result.p50_micros:.0f}/{result.p99_micros:.0f}"
            for (model, protocol), result in phase.results.items()
        ]
        seconds = max(result.seconds for result in phase.results.values())
        what = "at rest" if phase.swapped is None else f"swapping {phase.swapped}"
        print(f"{what:<24} {seconds:5.1f} s, p50/p99 in µs: {', '.join(shown)}")
    results = [result for phase in phases for result in phase.results.values()]
    requests, errors = sum(r.requests for r in results), sum(r.errors for r in results)
    print(f"{requests} requests answered; load average {os.getloadavg()[0]:.1f}")
    figures = [
        Figure(f"requests failed while {swaps} versions are swapped", errors, "", 0, digits=0)
    ]
    for protocol in ("rest", "grpc"):
        name = f"{protocol}: p99 while another model loads ÷ at rest"
        figures.append(Figure(name, statistics.median(ratios(phases, protocol)), "×", 1.5))
    for figure in figures:
        print(figure.line())
    return int(not all(figure.is_reached for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
