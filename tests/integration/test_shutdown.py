"""SIGTERM and SIGINT: finish requests in flight, then exit with status 0."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest

from support.grpc_client import GrpcClient
from support.grpc_definitions import Definitions
from support.server_process import Reply, ServerProcess, StartServer, steps_that_take

DEFINITIONS = Definitions.of_this_build()


@pytest.fixture
def slow_server(start_server: StartServer, runtime_models: Path) -> ServerProcess:
    """A server of the model `steps`, whose run time requests choose."""
    server = start_server({"steps": runtime_models / "steps"})
    server.wait_until_available("steps")
    return server


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    """Threads for requests."""
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
    assert "did not finish in time and were aborted" in server.log
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
    """Clients get complete answers or a closed connection, never a partial answer."""
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


class Clients:
    """Clients of other projects under load, which go to the next server after a refusal.

    Attributes:
        answered: The number of answered requests.
        lost: The errors of the others.
    """

    def __init__(self, first: ServerProcess, second: ServerProcess) -> None:
        self.answered = 0
        self.lost: list[str] = []
        self._servers = (first, second)
        self._stop = threading.Event()
        work = [self._ask_rest] * 4 + [self._ask_rest_anew] * 2 + [self._ask_grpc] * 4
        self._threads = [threading.Thread(target=ask) for ask in work]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop all of them."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask_rest(self) -> None:
        """Use a persistent connection."""
        for server in self._servers:
            url = f"http://127.0.0.1:{server.rest_port}/v1/models/half_plus_two:predict"
            with httpx.Client(timeout=60) as client:
                while not self._stop.is_set():
                    try:
                        answer = client.post(url, json={"instances": [1.0]})
                    except httpx.ConnectError:
                        break  # nothing was sent
                    except httpx.HTTPError as error:
                        self.lost.append(repr(error))
                        continue
                    self._count(answer.status_code == 200, answer.text)

    def _ask_rest_anew(self) -> None:
        """Open a connection for each request."""
        for server in self._servers:
            while not self._stop.is_set():
                try:
                    reply = server.predict("half_plus_two", {"instances": [1.0]})
                except ConnectionRefusedError:
                    break
                except OSError as error:
                    self.lost.append(repr(error))
                    continue
                self._count(reply.status == 200, str(reply.body))

    def _ask_grpc(self) -> None:
        """Leave retries and the choice of server to the library."""
        addresses = ",".join(f"127.0.0.1:{server.port}" for server in self._servers)
        request = DEFINITIONS.message("tensorflow.serving.PredictRequest")()
        request.model_spec.name = "half_plus_two"
        request.inputs["x"].dtype = 1
        request.inputs["x"].tensor_shape.dim.add().size = 1
        request.inputs["x"].float_val.append(1.0)
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.default_authority", "h")]
        with grpc.insecure_channel(f"ipv4:{addresses}", options) as channel:
            predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
            while not self._stop.is_set():
                try:
                    reply = predict(request.SerializeToString(), timeout=60)
                except grpc.RpcError as error:
                    self.lost.append(repr(error))
                    continue
                self._count(len(reply) > 0, repr(reply))

    def _count(self, is_good: bool, text: str) -> None:
        if is_good:
            self.answered += 1
        else:
            self.lost.append(text)

    def wait_for_more(self, answers: int) -> None:
        """Wait until this many further requests have been answered."""
        wanted, end = self.answered + answers, time.monotonic() + 60
        while self.answered < wanted:
            assert time.monotonic() < end, "the clients stand still"
            time.sleep(0.01)


def test_no_request_of_real_clients_is_lost_when_the_server_stops_under_load(
    start_server: StartServer, demo_models: Path
) -> None:
    """The request is answered, or the client learns that it was not accepted, so that it uses another server."""
    servers = [start_server({"half_plus_two": demo_models / "half_plus_two"}) for _ in range(3)]
    for server in servers:
        server.wait_until_available("half_plus_two")
    for first, second in pairwise(servers):
        clients = Clients(first, second)
        try:
            clients.wait_for_more(200)
            first.terminate()
            assert first.wait() == 0
            clients.wait_for_more(200)
        finally:
            clients.stop()
        assert clients.lost == []


def test_a_request_that_comes_while_a_kept_connection_waits_is_answered(
    start_server: StartServer, demo_models: Path
) -> None:
    server = start_server({"half_plus_two": demo_models / "half_plus_two"})
    server.wait_until_available("half_plus_two")
    with http_connection(server) as kept, http_connection(server) as fresh:
        kept.request("GET", "/v1/models/half_plus_two")
        assert kept.getresponse().read()
        fresh.connect()
        server.terminate()
        wait_until_refused(server)
        for connection in (kept, fresh):
            connection.request("GET", "/v1/models/half_plus_two")
            answer = connection.getresponse()
            assert (answer.status, answer.headers["Connection"]) == (200, "close")
        assert server.wait() == 0


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
HEAD = b"POST /v1/models/half_plus_two:predict HTTP/1.1\r\nHost: h\r\n"
OPEN_HEADERS = bytes([0, 0, 1, 1, 0, 0, 0, 0, 1, 0x83])
REQUEST_WITHOUT_END = bytes([0, 0, 6, 1, 4, 0, 0, 0, 1, 0x83, 0x86, 0x84, 0x41, 0x01, 0x68])


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"G",
        HEAD,
        HEAD + b"Content-Length: 100\r\n\r\n",
        HEAD + b"Content-Length: 100\r\n\r\n{",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
        PREFACE[:10],
        PREFACE,
        PREFACE + SETTINGS,
        PREFACE + SETTINGS + OPEN_HEADERS,
        PREFACE + SETTINGS + REQUEST_WITHOUT_END,
    ],
    ids=repr,
)
def test_a_silent_connection_does_not_use_up_the_drain(
    sent: bytes, start_server: StartServer, demo_models: Path
) -> None:
    server = start_server({"half_plus_two": demo_models / "half_plus_two"})
    server.wait_until_available("half_plus_two")
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as silent:
        silent.sendall(sent)
        server.get("/v1/models/half_plus_two")  # earlier data has been read by then
        start = time.monotonic()
        server.terminate()
        answer = silent.recv(1 << 16)
        if sent.startswith((b"G", HEAD)):
            assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert server.wait() == 0
        assert time.monotonic() - start < 15
    assert "were aborted" not in server.log


def http_connection(server: ServerProcess) -> contextlib.closing[http.client.HTTPConnection]:
    """A persistent connection to the REST port."""
    return contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30))


def wait_until_refused(server: ServerProcess) -> None:
    """Wait until the server refuses new connections."""
    with contextlib.suppress(ConnectionRefusedError):
        while True:
            socket.create_connection(("127.0.0.1", server.rest_port), timeout=30).close()
