"""Malformed and hostile input: each gets a helpful error, and the server continues to serve others."""

from __future__ import annotations

import contextlib
import gzip
import re
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from support.grpc_client import GrpcClient, RpcError
from support.server_process import ServerProcess

PREDICT = "/v1/models/half_plus_two:predict"
GOOD = b'{"instances": [1.0]}'


@pytest.fixture(autouse=True)
def others_are_answered(server: ServerProcess) -> Iterator[None]:
    """After each test the same server answers a good request, on both ports."""
    yield
    assert server.is_running, server.log
    for port in (server.port, server.rest_port):
        reply = server.request("POST", PREDICT, GOOD, port=port, timeout=10)
        assert (reply.status, reply.json()) == (200, {"predictions": [2.5]})


def connect(server: ServerProcess) -> socket.socket:
    """Open a connection to the REST port."""
    return socket.create_connection(("127.0.0.1", server.rest_port), timeout=20)


def read_all(connection: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    received = bytearray()
    while True:
        try:
            piece = connection.recv(1 << 16)
        except ConnectionError:
            return bytes(received)
        if not piece:
            return bytes(received)
        received += piece


def exchange(server: ServerProcess, data: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes and read until the server closes the connection."""
    with connect(server) as connection:
        with contextlib.suppress(ConnectionError):  # the server may close early
            connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


def resident_bytes(server: ServerProcess) -> int:
    """The resident memory of the server."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


class TestJson:
    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"", "JSON Parse error: The document is empty"),
            (b"   ", "JSON Parse error: The document is empty. at offset: 3"),
            (b"{", "JSON Parse error: Missing a name for object member. at offset: 1"),
            (
                b'{"instances": [1.0}',
                "JSON Parse error: Missing a comma or ']' after an array element.",
            ),
            (b'{"instances": [1.0, nope]}', "JSON Parse error: Invalid value."),
            (b'{"instances": [1e999]}', "JSON Parse error: Number too big to be stored in double."),
            (b"[1.0]", "Is not object"),
            (b"{}", "Missing 'inputs' or 'instances' key"),
            (b'{"instances": []}', "No values in 'instances' array"),
            (b'{"instances": 1.0}', "Expecting 'instances' to be an list/array"),
            (
                b'{"instances": [1.0], "inputs": [1.0]}',
                "expecting only one of 'inputs' or 'instances'",
            ),
            (b'{"inputs": [[1.0], [2.0, 3.0]]}', "Encountered list at unexpected size: 2"),
            (b'{"instances": [[1.0], [2.0, 3.0]]}', "Expecting tensor size: 1 but got: 2"),
            (b'{"instances": [1.0, [2.0]]}', "Expecting shape"),
            (b'{"instances": ["one"]}', "Type: String is not of expected type: float"),
            (b'{"instances": [null]}', "Type: Null is not of expected type: float"),
            (b'{"instances": [{"z": 1.0}]}', "JSON object: does not have named input: z"),
            (
                b'{"signature_name": "none", "instances": [1.0]}',
                'Serving signature name: "none" not found',
            ),
            (
                b'{"signature_name": 1, "instances": [1.0]}',
                "'signature_name' key must be a string value.",
            ),
        ],
        ids=lambda value: value.decode()[:30] if isinstance(value, bytes) else "",
    )
    def test_gets_the_error_of_tensorflow_serving(
        self, body: bytes, message: str, server: ServerProcess
    ) -> None:
        reply = server.predict("half_plus_two", body)
        assert reply.status == 400
        assert reply.headers["content-type"] == "application/json"
        assert message in reply.error

    @pytest.mark.parametrize(
        ("dtype", "value"),
        [
            ("int8", 300),
            ("int8", -129),
            ("uint8", -1),
            ("int16", 40000),
            ("int32", 2**31),
            ("uint32", -1),
            ("uint64", 2**64),
            ("int64", 2**63),
            ("int32", 1.5),
        ],
    )
    def test_numbers_that_do_not_fit_are_refused(
        self, dtype: str, value: float, server: ServerProcess
    ) -> None:
        reply = server.predict("dtypes", {"signature_name": dtype, "inputs": [value]})
        assert reply.status == 400
        assert dtype in reply.error

    @pytest.mark.parametrize("depth", [1_000, 100_000, 5_000_000])
    @pytest.mark.parametrize("key", ["instances", "inputs", "ignored"])
    def test_nesting_bombs_are_refused(self, key: str, depth: int, server: ServerProcess) -> None:
        bomb = b'{"%s": %s1.0%s}' % (key.encode(), b"[" * depth, b"]" * depth)
        reply = server.request("POST", PREDICT, bomb, timeout=60)
        assert reply.status == 400

    @pytest.mark.parametrize("depth", [100_000, 5_000_000])
    def test_nesting_that_never_closes_is_refused(self, depth: int, server: ServerProcess) -> None:
        for opening in (b"[", b'{"a":'):
            reply = server.request("POST", PREDICT, b'{"inputs": ' + opening * depth, timeout=60)
            assert reply.status == 400

    def test_a_million_keys_are_no_trouble(self, server: ServerProcess) -> None:
        keys = b",".join(b'"k%d":0' % i for i in range(1_000_000))
        start = time.monotonic()
        reply = server.request("POST", PREDICT, b'{"instances": [1.0], %s}' % keys, timeout=60)
        assert reply.status == 200
        assert time.monotonic() - start < 20


class TestHttp:
    @pytest.mark.parametrize(
        "head",
        [
            b"POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
            b"POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: many\r\n\r\n",
            b"POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            b"POST %s HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nnot a size\r\n",
            b"POST %s HTTP/9.9\r\nHost: h\r\n\r\n",
            b"POST %s\r\n\r\n",
            b"\x00\x01\x02\x03 %s\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 %s\r\n\r\n",  # a TLS client hello
        ],
        ids=lambda head: repr(head[:60]),
    )
    def test_damaged_heads_get_an_error_and_a_closed_connection(
        self, head: bytes, server: ServerProcess
    ) -> None:
        answer = exchange(server, head.replace(b"%s", PREDICT.encode()))
        assert not answer or re.match(rb"HTTP/1\.[01] [45]\d\d ", answer)

    def test_a_head_without_end_is_refused(self, server: ServerProcess) -> None:
        answer = exchange(server, b"GET / HTTP/1.1\r\n" + b"X-Filler: 0123456789\r\n" * 200_000)
        assert not answer or re.match(rb"HTTP/1\.[01] [45]\d\d ", answer)

    def test_a_body_shorter_than_declared_takes_no_memory(self, server: ServerProcess) -> None:
        before = resident_bytes(server)
        head = b"POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: 2000000000\r\n\r\n"
        open_connections = [connect(server) for _ in range(20)]
        for connection in open_connections:
            connection.sendall(head.replace(b"%s", PREDICT.encode()) + GOOD)
        time.sleep(0.5)
        assert resident_bytes(server) - before < 100e6
        for connection in open_connections:
            connection.shutdown(socket.SHUT_WR)
        for connection in open_connections:
            answer = read_all(connection)
            assert b" 200 " not in answer.split(b"\r\n")[0]
            connection.close()

    @pytest.mark.parametrize("declared", [2**31, 2**40, 2**63 - 1, 2**64, 10**30])
    def test_a_body_that_would_be_too_large_is_refused_before_it_is_sent(
        self, declared: int, server: ServerProcess
    ) -> None:
        head = f"POST {PREDICT} HTTP/1.1\r\nHost: h\r\nContent-Length: {declared}\r\n\r\n"
        with connect(server) as connection:
            connection.sendall(head.encode() + GOOD)
            answer = connection.recv(1 << 16)
        assert not answer or re.match(rb"HTTP/1\.[01] 4\d\d ", answer)

    @pytest.mark.parametrize("target", ["/nothing", "/v1", "/v1/models/{x}", "/v2x"])
    def test_a_body_for_a_path_that_does_not_exist_is_not_waited_for(
        self, target: str, server: ServerProcess
    ) -> None:
        head = f"POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n"
        with connect(server) as connection:
            connection.sendall(head.encode() + GOOD)
            answer = read_all(connection)
        assert re.match(rb"HTTP/1\.1 40[04] ", answer)
        assert b"connection: close\r\n" in answer

    @pytest.mark.parametrize("method", ["PUT", "POST"])
    def test_a_malformed_route_keeps_the_connection(
        self, method: str, server: ServerProcess
    ) -> None:
        head = f"{method} /v1/models/m HTTP/1.1\r\nHost: h\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n"
        with connect(server) as connection:
            for _ in range(2):
                connection.sendall(head.encode())
                time.sleep(0.05)  # later than the head
                connection.sendall(b"body")
                answer = connection.recv(1 << 16)
                assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
                assert b"Malformed request: %s /v1/models/m" % method.encode() in answer

    def test_bytes_after_a_body_are_the_next_request(self, server: ServerProcess) -> None:
        request = (
            f"POST {PREDICT} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(GOOD)}\r\n\r\n".encode()
        )
        answer = exchange(server, request + GOOD + b"leftover\r\n\r\n")
        first, _, rest = answer.partition(b"HTTP/1.1 200 OK")
        assert not first
        assert b"HTTP/1.1 200 OK" not in rest

    def test_a_client_that_stops_sending_still_gets_its_answer(self, server: ServerProcess) -> None:
        request = (
            f"POST {PREDICT} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(GOOD)}\r\n\r\n".encode()
        )
        answer = exchange(server, request + GOOD, half_close=True)
        assert answer.startswith(b"HTTP/1.1 200 OK")

    def test_a_slow_client_gets_its_answer(self, server: ServerProcess) -> None:
        request = f"POST {PREDICT} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {len(GOOD)}\r\n\r\n"
        with connect(server) as connection:
            for byte in request.encode() + GOOD:
                connection.sendall(bytes([byte]))
                time.sleep(0.005)
            assert read_all(connection).startswith(b"HTTP/1.1 200 OK")

    def test_many_stalled_clients_block_no_other_client(self, server: ServerProcess) -> None:
        stalled = [connect(server) for _ in range(300)]
        for number, connection in enumerate(stalled):
            connection.sendall(
                f"POST {PREDICT} HTTP/1.1\r\nHost: h\r\nX: "[: 10 + number % 60].encode()
            )
        start = time.monotonic()
        for _ in range(20):
            assert server.predict("half_plus_two", GOOD).status == 200
        assert time.monotonic() - start < 5
        for connection in stalled:
            connection.close()

    def test_a_client_that_never_reads_blocks_no_other_client(self, server: ServerProcess) -> None:
        request = b"GET /v1/models/turtle3/metadata HTTP/1.1\r\nHost: h\r\n\r\n"
        with connect(server) as connection:
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                for _ in range(2_000):
                    connection.send(request * 100)
            start = time.monotonic()
            assert server.predict("half_plus_two", GOOD).status == 200
            assert time.monotonic() - start < 5

    def test_a_damaged_gzip_body_is_called_that(self, server: ServerProcess) -> None:
        reply = server.request(
            "POST", PREDICT, gzip.compress(GOOD)[:-9], {"Content-Encoding": "gzip"}
        )
        assert reply.status == 400
        assert "gzip" in reply.error

    def test_a_gzip_bomb_takes_no_memory(self, server: ServerProcess) -> None:
        bomb = gzip.compress(b" " * 1_000_000_000, compresslevel=1)
        before = resident_bytes(server)
        reply = server.request("POST", PREDICT, bomb, {"Content-Encoding": "gzip"})
        assert reply.status == 413
        assert resident_bytes(server) - before < 300e6


# ---- HTTP/2

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE = 0, 1, 2, 3, 4, 5
PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 6, 7, 8, 9
END_STREAM, END_HEADERS = 0x1, 0x4


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    """Encode a frame."""
    return (
        struct.pack(">I", len(payload))[1:]
        + bytes([kind, flags])
        + struct.pack(">I", stream)
        + payload
    )


def header_block(**headers: str) -> bytes:
    """Encode headers in the simplest form of HPACK: literals without indexing or compression."""
    block = bytearray()
    for name, value in headers.items():
        wire_name = name.replace("pseudo_", ":").replace("_", "-")
        for text in (wire_name, value):
            if text is wire_name:
                block.append(0)
            block.append(len(text))
            block += text.encode()
    return bytes(block)


REQUEST = header_block(
    pseudo_method="POST", pseudo_scheme="http", pseudo_path=PREDICT, pseudo_authority="h"
)
START = PREFACE + frame(SETTINGS)


class TestHttp2:
    @pytest.mark.parametrize(
        "frames",
        [
            frame(DATA, b"early", stream=1),
            frame(CONTINUATION, REQUEST, flags=END_HEADERS, stream=1),
            frame(HEADERS, REQUEST, stream=1) + frame(DATA, GOOD, flags=END_STREAM, stream=1),
            frame(HEADERS, REQUEST, flags=END_HEADERS, stream=2),
            frame(HEADERS, REQUEST, flags=END_HEADERS, stream=0),
            frame(HEADERS, b"\xff" * 40, flags=END_HEADERS, stream=1),
            frame(SETTINGS, b"odd length"[:5]),
            frame(SETTINGS, b"", stream=1),
            frame(PING, b"short"),
            frame(WINDOW_UPDATE, struct.pack(">I", 0)),
            frame(WINDOW_UPDATE, struct.pack(">I", 2**31 - 1)) * 2,
            frame(PUSH_PROMISE, struct.pack(">I", 2) + REQUEST, flags=END_HEADERS, stream=1),
            frame(RST_STREAM, struct.pack(">I", 0), stream=1),
            b"\xff\xff\xff" + frame(DATA, b"", stream=1)[3:] + b"x" * 70_000,
        ],
        ids=[
            "data before headers",
            "continuation of nothing",
            "data inside headers",
            "an even stream",
            "headers on stream 0",
            "broken header block",
            "settings of odd length",
            "settings on a stream",
            "a short ping",
            "an empty window update",
            "a window that overflows",
            "a push from the client",
            "a reset of nothing",
            "an enormous frame",
        ],
    )
    def test_frames_out_of_order_end_the_connection(
        self, frames: bytes, server: ServerProcess
    ) -> None:
        exchange(server, START + frames)  # returns when the server has closed

    @pytest.mark.parametrize(
        "start", [PREFACE[:10], PREFACE, START], ids=["part", "preface", "settings"]
    )
    def test_a_client_that_leaves_early_is_forgotten(
        self, start: bytes, server: ServerProcess
    ) -> None:
        for _ in range(50):
            with connect(server) as connection:
                connection.sendall(start)

    def test_streams_opened_and_reset_at_once_delay_no_other_client(
        self, server: ServerProcess
    ) -> None:
        resets = b"".join(
            frame(HEADERS, REQUEST, flags=END_HEADERS, stream=stream)
            + frame(RST_STREAM, struct.pack(">I", 8), stream=stream)
            for stream in range(1, 20_001, 2)
        )
        with connect(server) as connection:
            with contextlib.suppress(ConnectionError):  # closing the connection is correct, too
                connection.sendall(START + resets)
            start = time.monotonic()
            assert server.predict("half_plus_two", GOOD).status == 200
            assert time.monotonic() - start < 5


class TestGrpc:
    def post(self, server: ServerProcess, body: bytes) -> str:
        """Post bytes to Predict with curl, which does not validate them; returns the head and trailers."""
        return subprocess.run(
            [
                *("curl", "--silent", "--http2-prior-knowledge", "--max-time", "20"),
                *("-D", "-", "-o", "/dev/null", "--data-binary", "@-"),
                *("-H", "content-type: application/grpc", "-H", "te: trailers"),
                f"http://127.0.0.1:{server.port}/tensorflow.serving.PredictionService/Predict",
            ],
            input=body,
            check=True,
            capture_output=True,
        ).stdout.decode("latin-1")

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"\0",
            b"\0" + struct.pack(">I", 100) + b"short",
            b"\0" + struct.pack(">I", 2) + b"\x0a\x00" + b"more than was declared",
            b"\0" + struct.pack(">I", 2**32 - 1) + b"x",
            b"\1" + struct.pack(">I", 5) + b"plain",
            b"\7" + struct.pack(">I", 0),
            b"\0" + struct.pack(">I", 5) + b"\xff" * 5,
        ],
        ids=[
            "nothing",
            "part of a prefix",
            "shorter than declared",
            "longer than declared",
            "four gigabytes declared",
            "compressed without saying how",
            "an unknown flag",
            "not a message",
        ],
    )
    def test_messages_that_lie_get_an_error(self, body: bytes, server: ServerProcess) -> None:
        before = resident_bytes(server)
        answer = self.post(server, body)
        assert re.search(r"(?mi)^grpc-status: [1-9]", answer), answer
        assert resident_bytes(server) - before < 100e6

    def test_an_unknown_method_is_called_that(
        self, server: ServerProcess, grpc_client: GrpcClient
    ) -> None:
        with pytest.raises(RpcError) as error:
            grpc_client.call("call_raw", server.port, "Prophesy", b"")
        assert error.value.code == "UNIMPLEMENTED"

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({}, "input size does not match signature"),
            ({"z": np.array([1.0], np.float32)}, "z"),
            ({"x": np.array([1.0], np.float64)}, "float"),
            ({"x": np.array(["one"], object)}, "float"),
        ],
        ids=["none", "unknown name", "wrong dtype", "strings"],
    )
    def test_wrong_inputs_are_named(
        self,
        inputs: dict[str, np.ndarray],
        message: str,
        server: ServerProcess,
        grpc_client: GrpcClient,
    ) -> None:
        with pytest.raises(RpcError) as error:
            grpc_client.predict(server.port, "half_plus_two", inputs)
        assert error.value.code in ("INVALID_ARGUMENT", "INTERNAL")
        assert message in error.value.details


def test_noise_on_many_connections_is_harmless(server: ServerProcess) -> None:
    random = np.random.default_rng(0)
    heads = [b"", PREFACE, START, b"POST " + PREDICT.encode() + b" HTTP/1.1\r\n"]
    failures: list[BaseException] = []

    def send_noise(seed: int) -> None:
        noise = np.random.default_rng(seed).bytes(int(random.integers(1, 4_000)))
        try:
            with connect(server) as connection:
                connection.sendall(heads[seed % len(heads)] + noise)
                connection.shutdown(socket.SHUT_WR)
                read_all(connection)
        except TimeoutError as error:
            failures.append(error)
        except OSError:
            pass  # the server closed first

    for first in range(0, 400, 20):
        threads = [threading.Thread(target=send_noise, args=(first + i,)) for i in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
