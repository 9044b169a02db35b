"""SIGTERM and SIGINT: finish what is in flight, then exit with status 0."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from support.grpc_client import GrpcClient
from support.server_process import Reply, ServerProcess, StartServer, steps_that_take


@pytest.fixture
def slow_server(start_server: StartServer, runtime_models: Path) -> ServerProcess:
    """A server of the model `steps`, which can be asked to take long."""
    server = start_server({"steps": runtime_models / "steps"})
    server.wait_until_available("steps")
    return server


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    """Threads to ask from."""
    with ThreadPoolExecutor() as pool:
        yield pool


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_stops_at_once(slow_server: ServerProcess, number: signal.Signals) -> None:
    start = time.monotonic()
    slow_server.process.send_signal(number)
    assert slow_server.wait() == 0
    assert time.monotonic() - start < 5


def test_requests_in_flight_are_finished(
    slow_server: ServerProcess, executor: ThreadPoolExecutor, grpc_client: GrpcClient
) -> None:
    steps = steps_that_take(slow_server, 2)
    rest = [executor.submit(slow_server.predict, "steps", {"inputs": steps}) for _ in range(2)]
    grpc = executor.submit(
        grpc_client.predict, slow_server.port, "steps", {"steps": np.array(steps, np.int64)}
    )
    time.sleep(0.5)
    assert not any(asking.done() for asking in (*rest, grpc))
    slow_server.terminate()
    for asking in rest:
        reply: Reply = asking.result()
        assert (reply.status, reply.json()) == (200, {"outputs": steps})
    assert grpc.result()["outputs"]["taken"] == steps
    assert slow_server.wait() == 0


def test_no_new_request_is_taken_while_stopping(
    slow_server: ServerProcess, executor: ThreadPoolExecutor
) -> None:
    steps = steps_that_take(slow_server, 2)
    asking = executor.submit(slow_server.predict, "steps", {"inputs": steps})
    time.sleep(0.5)
    slow_server.terminate()
    time.sleep(0.5)
    assert slow_server.is_running
    with pytest.raises(ConnectionError):
        slow_server.get("/v1/models/steps")
    assert asking.result().status == 200
    assert slow_server.wait() == 0


def test_a_second_signal_ends_the_server_at_once(
    slow_server: ServerProcess, executor: ThreadPoolExecutor
) -> None:
    steps = steps_that_take(slow_server, 20)
    asking = executor.submit(slow_server.predict, "steps", {"inputs": steps})
    time.sleep(0.5)
    slow_server.terminate()
    time.sleep(0.5)
    assert slow_server.is_running
    start = time.monotonic()
    slow_server.terminate()
    assert slow_server.wait() != 0
    assert time.monotonic() - start < 2
    with pytest.raises(ConnectionError):
        asking.result()


def test_requests_that_take_too_long_are_cut_off(
    start_server: StartServer, runtime_models: Path, executor: ThreadPoolExecutor
) -> None:
    server = start_server({"steps": runtime_models / "steps"}, "--drain_timeout_seconds=1")
    server.wait_until_available("steps")
    asking = executor.submit(server.predict, "steps", {"inputs": steps_that_take(server, 20)})
    time.sleep(0.5)
    start = time.monotonic()
    server.terminate()
    assert server.wait() == 0
    assert 0.5 < time.monotonic() - start < 10
    assert "did not finish in time and were cut off" in server.log
    with pytest.raises(ConnectionError):
        asking.result()


def test_a_server_that_still_waits_for_its_model_stops(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server({"m": tmp_path / "missing"})
    server.wait_until_answers()
    server.terminate()
    assert server.wait() == 0


def test_stopping_under_load_answers_every_request_that_was_taken(
    slow_server: ServerProcess,
) -> None:
    """Clients see whole answers or a closed connection, never half an answer."""
    outcomes: list[str] = []

    def ask() -> None:
        while True:
            try:
                reply = slow_server.predict("steps", {"inputs": 100})
            except ConnectionError:
                outcomes.append("closed")
                return
            outcomes.append("whole" if reply.json() == {"outputs": 100} else repr(reply))

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    time.sleep(0.5)
    slow_server.terminate()
    assert slow_server.wait() == 0
    for client in clients:
        client.join()
    assert set(outcomes) == {"whole", "closed"}
