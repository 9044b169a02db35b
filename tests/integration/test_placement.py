"""While a load runs on one of two CPUs, each serving thread has a CPU of its own."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.server_process import ServerProcess, StartServer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads are placed on Linux only")

SECONDS = 20.0


@pytest.fixture
def two_cpus() -> Iterator[list[int]]:
    """Restrict this thread, and its child processes, to two CPUs."""
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("there is one CPU only")
    two = sorted(before)[:2]
    os.sched_setaffinity(0, two)
    yield two
    os.sched_setaffinity(0, before)


def places(server: ServerProcess) -> list[list[int]]:
    """The CPUs of each server thread that is pinned to one CPU, in order."""
    masks = []
    for thread in Path(f"/proc/{server.process.pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if "servable-worker" in (thread / "comm").read_text():
                masks.append(sorted(os.sched_getaffinity(int(thread.name))))
    return sorted(cpus for cpus in masks if len(cpus) == 1)


def wait_for_places(server: ServerProcess, wanted: list[list[int]]) -> None:
    end = time.monotonic() + SECONDS
    while (found := places(server)) != wanted:
        assert time.monotonic() < end, f"{found} instead of {wanted}; {server.log}"
        time.sleep(0.01)


def test_threads_that_serve_are_kept_apart_until_a_load_has_ended(
    start_server: StartServer, runtime_models: Path, tmp_path: Path, two_cpus: list[int]
) -> None:
    version = tmp_path / "stuck/1"
    version.mkdir(parents=True)
    model_file = version / "saved_model.pb"
    os.mkfifo(model_file)  # the load blocks until a writer opens it
    models = {"linear": runtime_models / "linear", "stuck": tmp_path / "stuck"}
    server = start_server(models, "--worker_threads=2", "--open_ports=at_once")
    wait_for_places(server, [[cpu] for cpu in two_cpus])

    server.wait_until_available("linear")
    os.close(os.open(model_file, os.O_WRONLY))
    wait_for_places(server, [])
