"""`--grpc_channel_arguments`, observed as HTTP/2 frames."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from support.grpc_client import GrpcClient, RpcError
from support.server_process import ServerProcess, StartServer

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
EMPTY_SETTINGS = bytes([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0])


def frames(connection: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Type and payload of each frame, until the server closes."""
    with connection.makefile("rb") as stream:
        while len(head := stream.read(9)) == 9:
            yield head[3], stream.read(int.from_bytes(head[:3], "big"))


def connect(server: ServerProcess) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    connection.sendall(PREFACE + EMPTY_SETTINGS)
    return connection


def halves(client: GrpcClient, server: ServerProcess, count: int) -> list[float]:
    inputs = {"x": np.full(count, 2.0, np.float32)}
    return list(client.predict(server.port, "half_plus_two", inputs)["outputs"]["y"])


@pytest.fixture
def start(start_server: StartServer, demo_models: Path) -> object:
    def with_arguments(*arguments: str) -> ServerProcess:
        server = start_server(
            {"half_plus_two": demo_models / "half_plus_two"},
            f"--grpc_channel_arguments={','.join(arguments)}",
        )
        server.wait_until_available("half_plus_two")
        return server

    return with_arguments


def test_connections_are_as_the_arguments_say(start: StartServer) -> None:
    server = start(
        *("grpc.max_concurrent_streams=7", "grpc.max_metadata_size=9000"),
        *("grpc.http2.max_frame_size=20000", "grpc.http2.lookahead_bytes=70000"),
        *("grpc.keepalive_time_ms=300", "grpc.keepalive_timeout_ms=300"),
        *("grpc.so_reuseport=0", "grpc.so_reuseport=0", "grpc.optimization_target=latency"),
    )
    start_time = time.monotonic()
    with connect(server) as connection:
        sent = list(frames(connection))
    settings = next(payload for kind, payload in sent if kind == SETTINGS)
    pairs = [settings[at : at + 6] for at in range(0, len(settings), 6)]
    values = {int.from_bytes(p[:2], "big"): int.from_bytes(p[2:], "big") for p in pairs}
    assert values[3] == 7
    assert values[4] == 70_000
    assert values[5] == 20_000
    assert values[6] == 9_000
    assert any(kind == PING for kind, _ in sent), "the client is asked for a sign of life"
    assert time.monotonic() - start_time < 10, "and given up without one"
    expected = "--grpc_channel_arguments: without effect here: grpc.so_reuseport, grpc.optimization"
    assert server.log.count(expected) == 1


def test_old_connections_are_closed_and_calls_go_on(
    start: StartServer, grpc_client: GrpcClient
) -> None:
    server = start("grpc.max_connection_age_ms=300", "grpc.max_connection_age_grace_ms=500")
    with connect(server) as connection:
        # This client never acknowledges the first GOAWAY, as a live one would. The connection is therefore closed after
        # the grace period.
        kinds = [kind for kind, _ in frames(connection)]
    assert GOAWAY in kinds
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        assert halves(grpc_client, server, 1) == [3.0]


def test_messages_are_as_large_as_the_arguments_allow(
    start: StartServer, grpc_client: GrpcClient
) -> None:
    server = start("grpc.max_receive_message_length=4096", "grpc.max_send_message_length=2048")

    assert halves(grpc_client, server, 100) == [3.0] * 100
    for count in (2_000, 800):  # the request, the reply
        with pytest.raises(RpcError) as refused:
            halves(grpc_client, server, count)
        assert refused.value.code == "RESOURCE_EXHAUSTED", count
    assert "Sent message larger than max" in refused.value.details


def test_a_value_that_cannot_be_ends_the_start(start_server: StartServer) -> None:
    server = start_server({}, "--grpc_channel_arguments=grpc.max_concurrent_streams=none")
    assert server.wait() != 0
    assert "grpc.max_concurrent_streams cannot be 'none'" in server.log
