"""Memory exhaustion fails the request that causes it, and not the server."""

from __future__ import annotations

import gzip
import re
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from support.server_process import ServerProcess, StartServer

PREDICT = "/v1/models/half_plus_two:predict"
GOOD = b'{"instances": [1.0]}'
MIB = 2**20


def numbers(megabytes: int) -> bytes:
    """A body of numbers, of about this size."""
    return b'{"instances": [%s1]}' % (b"1," * (megabytes * MIB // 2))


def is_alive(server: ServerProcess) -> bool:
    """Whether the server still answers."""
    return server.request("POST", PREDICT, GOOD).status == 200 and server.is_running


@pytest.fixture
def short_of_memory(start_server: StartServer, demo_models: Path) -> Iterator[ServerProcess]:
    """A server with a limit of about 150 MB of further memory."""
    flags = ["--max_total_body_bytes=100000000000", "--max_decompressed_bytes=2000000000"]
    server = start_server({"half_plus_two": demo_models / "half_plus_two"}, *flags)
    server.wait_until_available("half_plus_two")
    assert is_alive(server)
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmSize:\s+(\d+) kB", status)
    assert found
    limit = int(found[1]) * 1024 + 150 * MIB
    resource.prlimit(server.process.pid, resource.RLIMIT_AS, (limit, limit))
    yield server
    assert is_alive(server), server.log
    assert "memory allocation" not in server.log


def test_a_large_body_is_refused(short_of_memory: ServerProcess) -> None:
    reply = short_of_memory.request("POST", PREDICT, numbers(400))
    assert reply.status == 429
    assert re.fullmatch(r"the server has no memory for \d+ bytes", reply.error)


def test_a_body_that_grows_when_it_is_unpacked_is_refused(short_of_memory: ServerProcess) -> None:
    packed = gzip.compress(numbers(400), 1)
    reply = short_of_memory.request("POST", PREDICT, packed, {"Content-Encoding": "gzip"})
    assert reply.status == 429


def test_a_body_whose_tensors_have_no_room_is_refused(short_of_memory: ServerProcess) -> None:
    reply = short_of_memory.request("POST", PREDICT, numbers(60))
    assert reply.status == 429


def test_a_large_message_of_grpc_is_refused(short_of_memory: ServerProcess) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{short_of_memory.port}") as channel:
        predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        with pytest.raises(grpc.RpcError) as refused:
            predict(bytes(400 * MIB), timeout=60)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_bodies_together_are_bounded(start_server: StartServer, demo_models: Path) -> None:
    limit = "--max_total_body_bytes=16777216"
    server = start_server({"half_plus_two": demo_models / "half_plus_two"}, limit)
    server.wait_until_available("half_plus_two")
    reply = server.request("POST", PREDICT, numbers(20))
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert reply.error == (
        "the bodies under way have no room for another one: their limit is 16777216 bytes"
    )
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        with pytest.raises(grpc.RpcError) as refused:
            predict(bytes(20 * MIB), timeout=60)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "grpc-status-details-bin" in dict(refused.value.trailing_metadata())

    body = numbers(1)
    body += b" " * (9 * MIB - len(body))
    lines = f"Host: h\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    head = f"POST {PREDICT} HTTP/1.1\r\n{lines}".encode()
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=60) as held:
        held.sendall(head + body[:-1])
        while server.request("POST", PREDICT, body).status != 503:
            pass  # the other request has not arrived
        assert is_alive(server), "small ones are taken"
        held.sendall(body[-1:])
        answer = b"".join(iter(lambda: held.recv(1 << 16), b""))
        assert answer.startswith(b"HTTP/1.1 200 ")
    assert server.request("POST", PREDICT, body).status == 200
