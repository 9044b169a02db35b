"""Serve many models: what does the start cost, and what does a request for one of them cost?

usage: many_models.py [--models=N] [--poll-wait-seconds=N] [--start-only]        (needs the `tensorflow` package)

Every model is a link to the same small SavedModel. The start, until all models answer, is compared with the same loads
alone: the server's loader in a loop, with a thread for each CPU. Both include opening TensorFlow, and that time is
printed, too. Starts and loads alternate: each start is compared with the loads before and after it, and the median
counts. Then the server with many models and one with a single model are put under the same load in turns, and their CPU
per request is compared. This includes polling the base paths, unless the interval is 0.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from served import (
    FULL,
    Bench,
    Expectation,
    Figure,
    ServerProcess,
    build_programs,
    config_text,
    export_model,
    footprint,
    measure_load,
    running_configured,
    save_answer,
    wait_until,
    write_calls,
)

ASKED = "half_plus_two"
STARTS = 5
ROUNDS = 7
IDLE_SECONDS = 4.0

LOADS_ALONE = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from servable.loaders import SavedModelLoader, SavedModelOptions, TensorFlowRuntime
runtime = TensorFlowRuntime()
loaders = [SavedModelLoader(path, runtime, SavedModelOptions()) for path in sys.argv[2:]]
start = time.monotonic()
runtime.get()
opened = time.monotonic()
with ThreadPoolExecutor(int(sys.argv[1])) as pool:
    list(pool.map(lambda loader: loader.load(), loaders))
print(opened - start, time.monotonic() - start)
"""


def link_models(root: Path, count: int, version: Path) -> dict[str, Path]:
    """Create base paths whose version 1 is a link."""
    names = [ASKED, *(f"model_{number:04}" for number in range(1, count))]
    base_paths = {name: root / name for name in names}
    for path in base_paths.values():
        path.mkdir(parents=True)
        (path / "1").symlink_to(version)
    return base_paths


def time_when_served(server: ServerProcess, names: list[str]) -> float:
    """Wait until every model is available. Requests cost CPU, so mostly only the last model is asked, with pauses."""
    wait_until(lambda: is_available(server, names[-1]), pause_seconds=0.05)
    served = time.monotonic()
    for name in names:
        if not is_available(server, name):
            wait_until(lambda name=name: is_available(server, name))  # type: ignore[misc]
            served = time.monotonic()
    return served


def is_available(server: ServerProcess, name: str) -> bool:
    """Whether a model has an available version."""
    status, body = server.request("GET", f"/v1/models/{name}")
    states = json.loads(body)["model_version_status"] if status == 200 else []
    return any(each["state"] == "AVAILABLE" for each in states)


def loads_alone(base_paths: dict[str, Path]) -> tuple[float, float]:
    """Load the same models in a loop; returns the time to open the libraries, and the total time."""
    threads = len(os.sched_getaffinity(0))
    versions = [str(path / "1") for path in base_paths.values()]
    command = [sys.executable, "-c", LOADS_ALONE, str(threads), *versions]
    opening, all_in_all = subprocess.check_output(command).split()
    return float(opening), float(all_in_all)


def measure_starts(bench: Bench, config: Path, base_paths: dict[str, Path], polling: str) -> float:
    """The time of a start beyond the loads, in seconds."""
    alone, starts = [loads_alone(base_paths)], []
    for _ in range(STARTS):
        started = time.monotonic()
        with running_configured(config, bench.log, polling) as server:
            starts.append(time_when_served(server, list(base_paths)) - started)
        alone.append(loads_alone(base_paths))
    around = map(statistics.mean, itertools.pairwise(loads for _, loads in alone))
    surpluses = [start - loads for start, loads in zip(starts, around, strict=True)]
    for name, seconds in (
        ("to open TensorFlow", [opening for opening, _ in alone]),
        ("that and the loads alone", [loads for _, loads in alone]),
        (f"start with {len(base_paths)} models", starts),
        ("the same, less what comes before and after it", surpluses),
    ):
        print(f"{name}: {', '.join(f'{each:.2f} s' for each in seconds)}")
    print(f"load average {os.getloadavg()[0]:.1f}")
    return statistics.median(surpluses)


def idle_cpu(server: ServerProcess) -> float:
    """The CPU usage of the server without requests, as a fraction of a processor."""
    before = server.cpu_seconds()
    time.sleep(IDLE_SECONDS)
    return (server.cpu_seconds() - before) / IDLE_SECONDS


def main() -> int:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--poll-wait-seconds", type=int, default=1)
    parser.add_argument("--start-only", action="store_true")
    arguments = parser.parse_args()
    count, ratios = arguments.models, {}
    polling = f"--file_system_poll_wait_seconds={arguments.poll_wait_seconds}"
    with tempfile.TemporaryDirectory(prefix="servable-many-") as directory:
        scratch = Path(directory)
        version = export_model()
        bench = Bench(build_programs(), version, scratch, FULL)
        base_paths = link_models(scratch / "models", count, version)
        many, single = scratch / "many.config", scratch / "single.config"
        many.write_text(config_text(base_paths))
        single.write_text(config_text({ASKED: base_paths[ASKED]}))
        surplus = measure_starts(bench, many, base_paths, polling)
        if not arguments.start_only:
            with (
                running_configured(many, bench.log, polling) as server_of_many,
                running_configured(single, bench.log, polling) as server_of_one,
            ):
                time_when_served(server_of_many, list(base_paths))
                time_when_served(server_of_one, [ASKED])
                print(f"{count} models: {footprint(server_of_many.process.pid)}")
                for server in (server_of_one, server_of_many):
                    print(f"CPU at idle: {idle_cpu(server):.3f} of a processor")
                ratios = compare(bench, server_of_one, server_of_many)
    figures = [Figure(f"start with {count} models, less the loads alone", surplus, "s", 1.0)]
    for protocol, ratio in ratios.items():
        name = f"{protocol}: CPU a request with {count} models ÷ with one"
        figures.append(Figure(name, ratio, "×", 1.1))
    for figure in figures:
        print(figure.line())
    return int(not all(figure.is_reached for figure in figures))


def compare(bench: Bench, one: ServerProcess, many: ServerProcess) -> dict[str, float]:
    """The ratio of the CPU per request with many models to that with one, by protocol; the median of the rounds."""
    ratios: dict[str, list[float]] = {}
    for call in write_calls(bench.scratch):
        expectation = Expectation(answer=save_answer(bench, one, call))
        for number in range(ROUNDS):
            # The order rotates, so that neither always runs after the other.
            order = [one, many] if number % 2 == 0 else [many, one]
            micros = {
                id(each): measure_load(bench, each, call, expectation).cpu_micros for each in order
            }
            ratios.setdefault(call.protocol, []).append(micros[id(many)] / micros[id(one)])
    for protocol, found in ratios.items():
        print(f"{protocol}: {', '.join(f'{ratio:.2f}' for ratio in sorted(found))}")
    return {protocol: statistics.median(found) for protocol, found in ratios.items()}


if __name__ == "__main__":
    sys.exit(main())
