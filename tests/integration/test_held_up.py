"""A model that hangs, or suddenly becomes slow, does not block requests for other models."""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support.grpc_client import GrpcClient
from support.server_process import ServerProcess, StartServer, free_port, model_config

HANGS = {"inputs": [-1.0]}
RUNS = {"inputs": [1.0]}
PATIENCE_SECONDS = 20.0
"""Much longer than any of the requests takes, on a slow machine and with a debug build."""


def test_a_quick_model_that_takes_long_leaves_the_server_to_others(
    start_server: StartServer, runtime_models: Path
) -> None:
    server = start_server({"decomposed": runtime_models / "decomposed"}, "--worker_threads=2")
    server.wait_until_available("decomposed")
    long, seconds = 200, 0.0
    while seconds < 1.5:
        long, start = long * 5 // 4, time.monotonic()
        assert server.predict("decomposed", {"inputs": long}).status == 200
        seconds = time.monotonic() - start
    for _ in range(150):
        assert server.predict("decomposed", {"inputs": 1}).status == 200
    with ThreadPoolExecutor(3) as executor:
        runs = [executor.submit(server.predict, "decomposed", {"inputs": long}) for _ in range(3)]
        time.sleep(0.1)
        for _ in range(5):
            assert server.request("GET", "/v1/models/decomposed").status == 200
            assert server.request("GET", "/v2/health/live").status == 200
        assert not any(run.done() for run in runs)
        assert [run.result().status for run in runs] == [200] * 3


def test_health_is_told_while_the_runtime_waits_for_memory(
    start_server: StartServer, runtime_models: Path
) -> None:
    """TensorFlow's allocator waits ten seconds for memory, and makes threads that free memory wait, too."""
    served = {name: runtime_models / name for name in ("ones", "linear")}
    server = start_server(served, "--worker_threads=2")
    server.wait_until_available(*served)
    large = json.dumps({"inputs": [1.0] * 5000}).encode()
    for _ in range(100):
        assert server.predict("linear", large).status == 200
        assert server.predict("ones", {"inputs": 2000}).status == 200
    with ThreadPoolExecutor(20) as executor:
        too_large = executor.submit(server.predict, "ones", {"inputs": 1 << 45})
        others = []
        slowest = 0.0
        end = time.monotonic() + 30
        while not too_large.done() and time.monotonic() < end:
            if len(others) < 100:
                others += [executor.submit(server.predict, "linear", large) for _ in range(4)]
            start = time.monotonic()
            assert server.get("/healthz").status == 200
            assert server.predict("nothing", {"inputs": 1}).status == 404
            slowest = max(slowest, time.monotonic() - start)
            time.sleep(0.02)
        assert slowest < 3, "seconds"
        assert too_large.result().status == 429
        assert {other.result().status for other in others} == {200}


def switches(server: ServerProcess) -> dict[str, int]:
    """The number of voluntary context switches of each serving thread."""
    found = {}
    for thread in Path(f"/proc/{server.process.pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has just ended
            if "servable-worker" in (thread / "comm").read_text():
                status = (thread / "status").read_text()
                found[thread.name] = int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of threads")
def test_threads_in_reserve_rest_until_they_are_needed(
    start_server: StartServer, runtime_models: Path
) -> None:
    server = start_server({"linear": runtime_models / "linear"}, "--worker_threads=2")
    server.wait_until_available("linear")

    def resting() -> int:
        before = switches(server)
        time.sleep(0.5)
        return sum(before.get(thread) == count for thread, count in switches(server).items())

    # A timer may wake one serving thread; a second one may be a coincidence.
    assert max(resting() for _ in range(5)) >= 3


@pytest.fixture(params=["unbatched", "batched"])
def others(
    request: pytest.FixtureRequest,
    start_server: StartServer,
    runtime_models: Path,
    tmp_path: Path,
    grpc_client: GrpcClient,
) -> Others:
    """A server of models that do not hang, and of `waiting`, which can."""
    served = {name: runtime_models / name for name in ("waiting", "linear", "large")}
    monitoring = tmp_path / "monitoring.config"
    monitoring.write_text('prometheus_config { enable: true path: "/metrics" }')
    admin_port = free_port()
    flags = [
        "--worker_threads=2",
        f"--monitoring_config_file={monitoring}",
        f"--admin_api_port={admin_port}",
    ]
    if request.param == "batched":
        flags.append("--enable_batching")
    server = start_server(served, *flags)
    server.wait_until_available(*served)
    return Others(server, admin_port, model_config(served), grpc_client)


class Others:
    """Requests that do not concern the model that hangs."""

    def __init__(
        self, server: ServerProcess, admin_port: int, config: str, grpc_client: GrpcClient
    ) -> None:
        self.server = server
        self._admin_port = admin_port
        self._config = config
        self._grpc_client = grpc_client
        self._slow = json.dumps({"inputs": [[0.5] * 2048] * 16}).encode()
        self._large = json.dumps({"inputs": [[0.5] * 2048] * 1000}).encode()

    def are_answered(self) -> None:
        for _ in range(3):
            self._is_answered("POST", "/v1/models/linear:predict", b'{"inputs": [2.0]}')
            self._is_answered("POST", "/v1/models/large:predict", self._slow)
        self._is_answered("POST", "/v1/models/large:predict", self._large)
        self._is_answered("GET", "/metrics")
        self._is_answered("GET", "/v1/admin/models", port=self._admin_port)
        self._grpc_client.call("reload", self.server.port, self._config)

    def _is_answered(
        self, method: str, path: str, body: bytes | None = None, port: int | None = None
    ) -> None:
        reply = self.server.request(method, path, body, port=port, timeout=PATIENCE_SECONDS)
        assert reply.status == 200, reply.body


@contextmanager
def asked(server: ServerProcess, count: int) -> Iterator[None]:
    """A number of callers wait for a run that hangs, until the server is killed."""

    def ask() -> None:
        with suppress(OSError, http.client.HTTPException):
            reply = server.predict("waiting", HANGS)
            # A full queue refuses a call.
            assert reply.status == 503, reply.body

    with ThreadPoolExecutor(count) as executor:
        waiting = [executor.submit(ask) for _ in range(count)]
        try:
            time.sleep(0.2)
            yield
        finally:
            server.kill()
    for caller in waiting:
        caller.result()


@pytest.mark.parametrize("quick_runs", [0, 150], ids=["slow", "quick"])
def test_a_model_that_hangs_leaves_the_server_to_others(others: Others, quick_runs: int) -> None:
    for _ in range(quick_runs):
        assert others.server.predict("waiting", RUNS).json() == {"outputs": [2.0]}
    others.are_answered()
    with asked(others.server, 50):
        others.are_answered()
