"""Version swaps under load."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from bench import CONNECTIONS, Bench, Figure, save_answer
from load import Expectation, packed_output, write_calls
from processes import ServerProcess

SWAPS = 20
SWAP_SECONDS = 30.0


def measure_swaps(bench: Bench, show: Callable[[str], None]) -> list[Figure]:
    """Replace the served version again and again, under load from both protocols."""
    base_path = bench.scratch / "swapped"
    add_version(base_path, 1, bench.model)
    part = bench.scratch / "output.bin"
    part.write_bytes(packed_output())
    rest, grpc = write_calls(bench.scratch)
    with bench.server(base_path=base_path) as server:
        # Answers over gRPC name the version, so only their numbers are known in advance.
        expectations = {
            rest: Expectation(answer=save_answer(bench, server, rest)),
            grpc: Expectation(part=part),
        }
        with contextlib.ExitStack() as running:
            runs = [
                bench.load(server, call, expectation, connections=CONNECTIONS // 2, seconds=180)
                for call, expectation in expectations.items()
            ]
            for run in runs:
                running.callback(run.stop)
            started = time.monotonic()
            for version in range(2, SWAPS + 2):
                add_version(base_path, version, bench.model)
                wait_until_only(server, version)
            took = time.monotonic() - started
        results = [run.result() for run in runs]
    requests = sum(result.requests for result in results)
    errors = sum(result.errors for result in results)
    show(f"  {SWAPS} swaps in {took:.1f} s, {requests} requests answered, {errors} failed")
    if not all(result.requests for result in results):
        raise RuntimeError("a protocol got no answers at all")
    return [Figure(f"requests failed while {SWAPS} versions are swapped", errors, "", 0, digits=0)]


def add_version(base_path: Path, version: int, template: Path) -> None:
    """Add a version as a deployment should: written elsewhere, then renamed."""
    aside = base_path / f"writing-{version}"
    shutil.copytree(template, aside)
    aside.rename(base_path / str(version))


def wait_until_only(server: ServerProcess, version: int) -> None:
    """Wait until the version is served, and the previous one is not."""
    end = time.monotonic() + SWAP_SECONDS
    while server.available_versions() != {version}:
        if time.monotonic() > end:
            raise RuntimeError(f"version {version} is not served after {SWAP_SECONDS} s")
        time.sleep(0.02)
