"""Endless runs are stopped where that is possible, and counted where it is not."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from support.grpc_client import GrpcClient, RpcError
from support.metrics_page import labels, monitoring_flag, scrape
from support.server_process import ServerProcess, StartServer

WAYS = "first_version second_version nested functional called mapped scanned data_set queue".split()
ENDLESS = {"inputs": [-1.0]}
ENDS = {"inputs": [3.0]}
RUNS = 30
IDLE_SECONDS = 20.0
"""Much longer than any run takes to stop."""


def cpu_seconds(server: ServerProcess) -> float:
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def becomes_idle(server: ServerProcess) -> bool:
    """Whether the server's usage falls below a tenth of a CPU."""
    end = time.monotonic() + IDLE_SECONDS
    while time.monotonic() < end:
        before = cpu_seconds(server)
        time.sleep(0.5)
        if cpu_seconds(server) - before < 0.05:
            return True
    return False


def ask_often(server: ServerProcess, document: object, model: str = "endless") -> set[int]:
    with ThreadPoolExecutor(RUNS) as executor:
        replies = executor.map(lambda _: server.predict(model, document), range(RUNS))
        return {reply.status for reply in replies}


@pytest.fixture(scope="module", params=["unbatched", "batched"])
def server(
    request: pytest.FixtureRequest,
    runtime_models: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServerProcess]:
    """A server of `endless` with a time limit of one second for REST requests."""
    directory = tmp_path_factory.mktemp("endless")
    flags = [
        "--model_name=endless",
        f"--model_base_path={runtime_models / 'endless'}",
        "--rest_api_timeout_in_ms=1000",
        monitoring_flag(directory),
    ]
    if request.param == "batched":
        flags.append("--enable_batching")
    with ServerProcess(flags, directory=directory) as process:
        process.wait_until_available("endless")
        yield process


@pytest.mark.parametrize("way", WAYS)
def test_the_time_of_a_request_ends_its_run(server: ServerProcess, way: str) -> None:
    good = {"signature_name": way, **ENDS}
    for _ in range(50):  # until the model counts as fast
        assert server.predict("endless", good).json() == {"outputs": [6.0]}
    # TensorFlow Serving's text for requests that wait for a batch says that there are too many.
    assert ask_often(server, {"signature_name": way, **ENDLESS}) <= {504, 429}
    assert becomes_idle(server)
    assert server.predict("endless", good).json() == {"outputs": [6.0]}
    stuck = scrape(server)["servable_stuck_runs"]
    assert stuck == {labels(model_name="endless"): 0}


@pytest.mark.parametrize("batching", [[], ["--enable_batching"]], ids=["unbatched", "batched"])
def test_a_run_without_a_deadline_ends_after_the_longest_time(
    start_server: StartServer,
    runtime_models: Path,
    tmp_path: Path,
    grpc_client: GrpcClient,
    batching: list[str],
) -> None:
    path = tmp_path / "endless"
    shutil.copytree(runtime_models / "endless/1", path / "1")
    server = start_server({"endless": path}, "--max_run_seconds=2", *batching)
    server.wait_until_available("endless")
    with pytest.raises(RpcError, match="DEADLINE_EXCEEDED: Timed out waiting for notification"):
        grpc_client.predict(server.port, "endless", {"x": np.float32([-1])}, timeout=None)
    # Also if the client has disconnected.
    with pytest.raises(RpcError, match="DEADLINE_EXCEEDED"):
        grpc_client.predict(server.port, "endless", {"x": np.float32([-1])}, timeout=0.5)
    assert becomes_idle(server)
    assert server.predict("endless", ENDS).json() == {"outputs": [6.0]}
    shutil.copytree(runtime_models / "endless/1", path / "writing")
    (path / "writing").rename(path / "2")
    server.wait_until_state("endless", 1, "END")


@pytest.mark.parametrize("batching", [[], ["--enable_batching"]], ids=["unbatched", "batched"])
def test_runs_that_cannot_be_stopped_are_bounded_and_counted(
    start_server: StartServer, runtime_models: Path, tmp_path: Path, batching: list[str]
) -> None:
    served = {name: runtime_models / name for name in ("blocking", "linear", "endless")}
    server = start_server(
        served, "--rest_api_timeout_in_ms=1000", monitoring_flag(tmp_path), *batching
    )
    server.wait_until_available(*served)
    for _ in range(50):
        assert server.predict("blocking", ENDS).json() == {"outputs": [6.0]}
    assert server.predict("blocking", ENDLESS).status == 504
    assert server.predict("blocking", ENDS).json() == {"outputs": [6.0]}, "there is room"
    assert 504 in ask_often(server, ENDLESS, "blocking")

    end = time.monotonic() + IDLE_SECONDS
    while (refused := server.predict("blocking", ENDS)).status != 503:
        assert time.monotonic() < end, refused.body
    assert "stuck: past the deadline, and the runtime does not stop" in refused.error
    stuck = scrape(server)["servable_stuck_runs"]
    assert 1 < stuck[labels(model_name="blocking")] < RUNS
    assert stuck[labels(model_name="linear")] == 0
    status = server.get("/v1/models/blocking").json()["model_version_status"][0]
    assert status["state"] == "AVAILABLE"
    assert "stuck" in status["status"]["error_message"]
    assert server.predict("linear", ENDS).json() == {"outputs": [3.5]}
    assert server.predict("endless", ENDS).json() == {"outputs": [6.0]}
    threads = len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))
    assert ask_often(server, ENDLESS, "blocking") == {503}
    assert len(list(Path(f"/proc/{server.process.pid}/task").iterdir())) <= threads + 2


def test_loops_of_one_model_leave_those_of_another_their_threads(
    start_server: StartServer, runtime_models: Path, tmp_path: Path
) -> None:
    shutil.copytree(runtime_models / "endless", tmp_path / "other")
    served = {"endless": runtime_models / "endless", "other": tmp_path / "other"}
    server = start_server(served)
    server.wait_until_available(*served)
    with ThreadPoolExecutor(RUNS) as executor:
        endless = [executor.submit(server.predict, "endless", ENDLESS) for _ in range(RUNS)]
        time.sleep(1)
        for _ in range(5):
            assert server.predict("other", ENDS).json() == {"outputs": [6.0]}
        assert not any(run.done() for run in endless)
        server.kill()
        for run in endless:
            assert run.exception() is not None
