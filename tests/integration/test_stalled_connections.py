"""Idle and stalled connections are closed by the server, and others are served."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.server_process import ServerProcess

PATH = b"/v1/models/half_plus_two:predict"
BODY = b'{"instances": [%s1.0]}' % (b"1.0, " * 100_000)
"""A request whose answer has half a megabyte."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0,
    1,
    2,
    4,
    6,
    7,
    8,
    9,
)
END_STREAM, END_HEADERS = 1, 4
PATIENCE = 2.0
CLOSED_WITHIN = 30.0


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """Encode one frame of HTTP/2."""
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    )


def kinds(received: bytes) -> list[int]:
    """The types of the received frames."""
    found = []
    while len(received) >= 9:
        found.append(received[3])
        received = received[9 + int.from_bytes(received[:3], "big") :]
    return found


# :method POST, :scheme http, then :path and :authority as literals.
BLOCK = b"\x83\x86\x04" + bytes([len(PATH)]) + PATH + b"\x01\x01h"
START = PREFACE + frame(SETTINGS)
ACKNOWLEDGED = frame(SETTINGS, 1)
NO_WINDOW = PREFACE + frame(SETTINGS, payload=b"\x00\x04\x00\x00\x00\x00") + ACKNOWLEDGED
WIDE = (
    PREFACE
    + frame(SETTINGS, payload=b"\x00\x04\x00\x7f\x00\x00")
    + ACKNOWLEDGED
    + frame(WINDOW_UPDATE, payload=b"\x3f\0\0\0")
)
OPEN_POST = frame(HEADERS, END_HEADERS, 1, BLOCK)


def post(stream: int, body: bytes = BODY) -> bytes:
    """A complete request."""
    parts = [body[at : at + 16384] for at in range(0, len(body), 16384)]
    data = [frame(DATA, 0, stream, part) for part in parts]
    return (
        frame(HEADERS, END_HEADERS, stream, BLOCK)
        + b"".join(data)
        + frame(DATA, END_STREAM, stream)
    )


@pytest.fixture(scope="module")
def impatient(
    demo_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server with a short idle time-out."""
    flags = [
        f"--model_base_path={demo_models / 'half_plus_two'}",
        "--model_name=half_plus_two",
        "--max_connections=400",
        f"--header_timeout_seconds={PATIENCE}",
        f"--idle_timeout_seconds={PATIENCE}",
        f"--body_timeout_seconds={PATIENCE}",
        "--min_body_bytes_per_second=1000",
        f"--max_total_body_bytes={64 * 2**20}",
    ]
    with ServerProcess(flags, directory=tmp_path_factory.mktemp("impatient")) as server:
        server.wait_until_available("half_plus_two")
        yield server
        assert server.is_running, server.log


class Client:
    """Sends data, then further data slowly, reads a limited amount, and does not close.

    Attributes:
        received: The data that was read.
        closed: When the server closed the connection.
    """

    def __init__(
        self, server: ServerProcess, sent: bytes, drip: bytes, most: int = 1 << 16
    ) -> None:
        self.received = b""
        self.closed = 0.0
        self._connection = socket.socket()
        if most == 1:
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._connection.settimeout(CLOSED_WITHIN)
        self._connection.connect(("127.0.0.1", server.rest_port))
        self._drip, self._most = drip, most
        self._thread = threading.Thread(target=self._work, args=(sent,))
        self._thread.start()

    def _work(self, sent: bytes) -> None:
        end = time.monotonic() + CLOSED_WITHIN
        with contextlib.suppress(ConnectionError), self._connection:
            settings, acknowledged, rest = sent.partition(ACKNOWLEDGED)
            self._connection.sendall(settings)
            if acknowledged:
                # From then on, bodies larger than HTTP/2's initial window are allowed.
                while WINDOW_UPDATE not in kinds(self.received):
                    self.received += self._connection.recv(1 << 16)
                self._connection.sendall(acknowledged + rest)
            while time.monotonic() < end:
                self._connection.settimeout(0.25)
                with contextlib.suppress(TimeoutError):
                    piece = self._connection.recv(self._most)
                    if not piece:
                        break
                    self.received += piece
                if self._most == 1:
                    time.sleep(0.25)
                self._connection.settimeout(CLOSED_WITHIN)
                self._connection.sendall(self._drip)
            else:
                return
        self.closed = time.monotonic()

    def wait(self) -> None:
        """Wait until the server has closed the connection."""
        self._thread.join()
        assert self.closed, f"the server did not close the connection: {self.received[:1000]!r}"


HELD: dict[str, tuple[bytes, bytes]] = {
    "pings": (START, frame(PING, payload=bytes(8))),
    "settings": (START, frame(SETTINGS)),
    "windows": (START, frame(WINDOW_UPDATE, payload=b"\0\0\0\1")),
    "priorities": (START, frame(PRIORITY, 0, 1, bytes(5))),
    "preface and nothing else": (PREFACE, b""),
    "settings and nothing else": (START, b""),
    "headers without end": (START + frame(HEADERS, 0, 1, BLOCK), b""),
    "headers that drip": (START + frame(HEADERS, END_HEADERS, 1, bytes(255))[:9], b"\x82"),
    "continuations": (START + frame(HEADERS, 0, 1, BLOCK), frame(CONTINUATION, 0, 1)),
    "longer continuations": (
        START + frame(HEADERS, 0, 1, BLOCK),
        frame(CONTINUATION, 0, 1, b"\0\1x\1x"),
    ),
    "a body that does not come": (START + OPEN_POST, frame(PING, payload=bytes(8))),
    "a body that drips": (START + OPEN_POST, frame(DATA, 0, 1, b" ")),
    "no window": (NO_WINDOW + post(1), frame(PING, payload=bytes(8))),
    "no window for many answers": (NO_WINDOW + b"".join(post(n) for n in (1, 3, 5)), b""),
    "a window of a byte": (
        NO_WINDOW + post(1),
        frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1"),
    ),
}


@pytest.mark.parametrize(("sent", "drip"), HELD.values(), ids=HELD)
def test_connections_of_http2_end_with_a_goaway(
    sent: bytes, drip: bytes, impatient: ServerProcess
) -> None:
    start = time.monotonic()
    client = Client(impatient, sent, drip)
    client.wait()
    assert client.closed - start > PATIENCE
    assert GOAWAY in kinds(client.received)


@pytest.mark.parametrize("sent", [b"", PREFACE[:1], PREFACE[:20]], ids=repr)
def test_silent_connections_are_closed(sent: bytes, impatient: ServerProcess) -> None:
    Client(impatient, sent, b"").wait()


def whole_request() -> bytes:
    """A request of HTTP/1.1 with an answer of several megabytes."""
    body = b'{"instances": [%s1.0]}' % (b"1.0, " * 1_000_000)
    return b"POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (PATH, len(body)) + body


@pytest.mark.parametrize(
    "sent",
    [whole_request, lambda: WIDE + b"".join(post(2 * n + 1) for n in range(8))],
    ids=["HTTP/1.1", "HTTP/2"],
)
def test_connections_of_very_slow_readers_are_closed(
    sent: Callable[[], bytes], impatient: ServerProcess
) -> None:
    # Data received before the close could be read for hours; only sending detects the close.
    drip = frame(PING, payload=bytes(8)) if sent().startswith(PREFACE) else b"\r\n"
    client = Client(impatient, sent(), drip, most=1)
    client.wait()
    assert len(client.received) < 1000


@pytest.mark.parametrize("kind", HELD)
def test_a_hundred_of_them_block_no_other_client(kind: str, impatient: ServerProcess) -> None:
    sent, drip = HELD[kind]
    held = [Client(impatient, sent, drip) for _ in range(100)]
    reply = impatient.predict("half_plus_two", {"instances": [1.0]})
    assert (reply.status, reply.json()) == (200, {"predictions": [2.5]})
    for client in held:
        client.wait()


def test_memory_of_answers_that_clients_do_not_take_is_bounded(impatient: ServerProcess) -> None:
    def resident_bytes() -> int:
        status = Path(f"/proc/{impatient.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024

    before = resident_bytes()
    # Their bodies fit the window of a connection; their answers, a hundred megabytes, are never read.
    small = b'{"instances": [%s1.0]}' % (b"1," * 20_000)
    many = NO_WINDOW + b"".join(post(2 * n + 1, small) for n in range(50))
    held = [Client(impatient, many, b"") for _ in range(20)]
    largest = 0
    while any(not client.closed for client in held):
        largest = max(largest, resident_bytes())
        time.sleep(0.05)
    assert largest - before < 100e6
    for client in held:
        client.wait()
