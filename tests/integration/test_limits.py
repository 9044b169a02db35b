"""Requests above a limit of size, number or time get a specific error, and others are served."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from support.grpc_client import GrpcClient, RpcError
from support.server_process import START_SECONDS, ServerProcess

PREDICT = "/v1/models/half_plus_two:predict"
GOOD = b'{"instances": [1.0]}'
HEAD = f"POST {PREDICT} HTTP/1.1\r\nHost: h\r\n".encode()
PATIENCE = 1.0


@pytest.fixture(scope="module")
def limited(demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with low limits."""
    directory = tmp_path_factory.mktemp("limited")
    flags = [
        f"--model_base_path={demo_models / 'half_plus_two'}",
        "--model_name=half_plus_two",
        "--max_body_bytes=100000",
        "--max_decompressed_bytes=50000",
        "--max_header_bytes=4000",
        "--max_headers=20",
        "--max_json_nesting=64",
        "--max_concurrent_streams=7",
        "--enable_grpc_healthcheck_service",
        "--max_connections=8",
        f"--header_timeout_seconds={PATIENCE}",
        f"--idle_timeout_seconds={PATIENCE * 2}",
        f"--body_timeout_seconds={PATIENCE}",
        "--min_body_bytes_per_second=1000",
    ]
    with ServerProcess(flags, directory=directory) as server:
        server.wait_until_available("half_plus_two")
        yield server


def connect(server: ServerProcess) -> socket.socket:
    """Open a connection."""
    return socket.create_connection(("127.0.0.1", server.rest_port), timeout=20)


def read_all(connection: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    received = bytearray()
    try:
        while piece := connection.recv(1 << 16):
            received += piece
    except ConnectionResetError:
        pass
    return bytes(received)


def first_line(answer: bytes) -> bytes:
    """The status line."""
    return answer.partition(b"\r\n")[0]


def test_bodies(limited: ServerProcess, grpc_client: GrpcClient) -> None:
    assert limited.request("POST", PREDICT, b" " * 100_001).status == 413
    packed = gzip.compress(b" " * 50_001)
    reply = limited.request("POST", PREDICT, packed, {"Content-Encoding": "gzip"})
    assert (reply.status, reply.error) == (
        413,
        "the body is larger than 50000 bytes when decompressed",
    )
    large = {"x": np.ones(30_000, np.float32)}
    with pytest.raises(RpcError, match=r"RESOURCE_EXHAUSTED: .*limit of 100000 bytes"):
        grpc_client.predict(limited.port, "half_plus_two", large)


def test_messages_of_grpc_that_grow(limited: ServerProcess) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{limited.port}") as channel:
        predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        with pytest.raises(grpc.RpcError) as refused:
            predict(bytes(60_000), timeout=20, compression=grpc.Compression.Gzip)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.value.details() == "the message is larger than 50000 bytes when decompressed"


def test_nesting(limited: ServerProcess) -> None:
    def body(depth: int) -> bytes:
        return b'{"instances": [1.0], "more": %s}' % (b"[" * (depth - 1) + b"]" * (depth - 1))

    assert limited.request("POST", PREDICT, body(64)).status == 200
    reply = limited.request("POST", PREDICT, body(65))
    assert reply.status == 400
    assert "Nested more than 64 levels deep" in reply.error


def test_streams_of_one_connection(limited: ServerProcess) -> None:
    empty_settings = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    with socket.create_connection(("127.0.0.1", limited.port), timeout=20) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + empty_settings)
        stream = connection.makefile("rb")
        head = stream.read(9)
        payload = stream.read(int.from_bytes(head[:3], "big"))
    assert head[3] == 4, "settings come first"
    pairs = [payload[at : at + 6] for at in range(0, len(payload), 6)]
    assert bytes([0, 3, 0, 0, 0, 7]) in pairs


def test_heads(limited: ServerProcess, grpc_client: GrpcClient) -> None:
    for headers in ({"X-Large": "x" * 4000}, {f"X-{n}": "x" for n in range(21)}):
        assert limited.request("POST", PREDICT, GOOD, headers).status == 431
    assert limited.get("/v1/models/" + "m" * 4000).status == 431
    metadata = (("x-large", "x" * 4000),)
    with pytest.raises(RpcError, match="RESOURCE_EXHAUSTED: the head of the request has"):
        grpc_client.predict(
            limited.port, "half_plus_two", {"x": np.ones(1, np.float32)}, metadata=metadata
        )
    metadata = tuple((f"x-{n}", "x") for n in range(21))
    with pytest.raises(
        RpcError, match=r"RESOURCE_EXHAUSTED: the request has 2\d headers; the limit is 20"
    ):
        grpc_client.predict(
            limited.port, "half_plus_two", {"x": np.ones(1, np.float32)}, metadata=metadata
        )


def test_a_head_that_trickles_in(limited: ServerProcess) -> None:
    with connect(limited) as connection:
        connection.sendall(b"GET /")
        stop = threading.Event()

        def trickle() -> None:
            while not stop.wait(PATIENCE / 5):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

        sender = threading.Thread(target=trickle)
        sender.start()
        answer = read_all(connection)
        stop.set()
        sender.join()
    assert first_line(answer) == b"HTTP/1.1 408 Request Timeout"
    assert answer.endswith(b"<H1>Request Timeout</H1>\n</BODY></HTML>\n")


def test_a_body_that_stops_or_trickles_in(limited: ServerProcess) -> None:
    head = HEAD + b"Content-Length: 5000\r\n\r\n"
    with connect(limited) as connection:
        connection.sendall(head + b"{")
        assert first_line(read_all(connection)) == b"HTTP/1.1 408 Request Timeout"
    with connect(limited) as connection:
        connection.sendall(head)
        start = time.monotonic()
        connection.settimeout(PATIENCE / 5)
        answer = b""
        while not answer and time.monotonic() < start + 20:
            # Each piece is in time, but the whole body would take half a minute.
            try:
                connection.sendall(b" " * 30)
                answer = connection.recv(1 << 16)
            except TimeoutError:
                continue
    assert first_line(answer) == b"HTTP/1.1 408 Request Timeout"
    assert time.monotonic() - start < 10


def test_idle_connections(limited: ServerProcess) -> None:
    start = time.monotonic()
    with connect(limited) as silent, connect(limited) as kept:
        kept.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD)
        assert first_line(kept.recv(1 << 16)) == b"HTTP/1.1 200 OK"
        assert read_all(silent) == b""
        assert read_all(kept) == b""
    assert PATIENCE < time.monotonic() - start < 15


def test_idle_grpc_clients_notice_nothing(limited: ServerProcess, grpc_client: GrpcClient) -> None:
    for _ in range(2):
        answer = grpc_client.predict(
            limited.port, "half_plus_two", {"x": np.array([1.0], np.float32)}
        )
        assert answer["outputs"]["y"] == [2.5]
        time.sleep(PATIENCE * 2.5)


def test_a_health_watch_outlives_the_idle_time_out(limited: ServerProcess) -> None:
    serving = b"\x08\x01"  # status: SERVING
    with grpc.insecure_channel(f"127.0.0.1:{limited.port}") as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=PATIENCE * 6)
        assert next(watch) == serving
        start = time.monotonic()
        with pytest.raises(grpc.RpcError) as ended:
            next(watch)
    assert ended.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - start > PATIENCE * 4


def test_connections_beyond_the_limit_wait_for_their_turn(limited: ServerProcess) -> None:
    holders = [connect(limited) for _ in range(8)]
    try:
        for holder in holders:
            holder.sendall(HEAD)
        start = time.monotonic()
        # The slow connections are closed.
        assert limited.request("POST", PREDICT, GOOD).status == 200
        assert time.monotonic() - start < START_SECONDS
        answers = {first_line(read_all(holder)) for holder in holders}
        assert answers <= {b"HTTP/1.1 408 Request Timeout", b""}
    finally:
        for holder in holders:
            holder.close()
    for port in (limited.port, limited.rest_port):
        assert limited.request("POST", PREDICT, GOOD, port=port).status == 200, "no place is lost"
