"""Ambiguous framing, as used for request smuggling, is refused with 400, and the connection is closed."""

from __future__ import annotations

import re
import socket

import pytest

from support.server_process import ServerProcess

BODY = b'{"instances": [1.0]}'
SMUGGLED = b"GET /v1/models/smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
GOOD_HEAD = b"POST /v1/models/half_plus_two:predict HTTP/1.1\r\nHost: h\r\n"
GOOD = GOOD_HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


def ask(server: ServerProcess, *pieces: bytes) -> bytes:
    """Send each piece in a separate segment, and read until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
        received = bytearray()
        while piece := connection.recv(1 << 16):
            received += piece
        return bytes(received)


def statuses(answers: bytes) -> list[int]:
    """The status of each answer."""
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d\d\d) ", answers)]


def head(*lines: bytes, version: bytes = b"1.1", host: bytes = b"Host: h\r\n") -> bytes:
    """A head with these lines."""
    start = b"POST /v1/models/half_plus_two:predict HTTP/%s\r\n" % version
    return start + host + b"".join(lines) + b"\r\n"


LENGTH = b"Content-Length: %d\r\n" % len(BODY)
AMBIGUOUS_HEADS = {
    "gzip, chunked": head(b"Transfer-Encoding: gzip, chunked\r\n") + CHUNKED,
    "chunked, gzip": head(b"Transfer-Encoding: chunked, gzip\r\n") + CHUNKED,
    "chunked, chunked": head(b"Transfer-Encoding: chunked, chunked\r\n") + CHUNKED,
    "two lines of codings": head(b"Transfer-Encoding: chunked\r\n" * 2) + CHUNKED,
    "gzip, then chunked": head(b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n") + CHUNKED,
    "identity": head(b"Transfer-Encoding: identity\r\n") + CHUNKED,
    "no coding": head(b"Transfer-Encoding:\r\n") + CHUNKED,
    "a coding that is none": head(b"Transfer-Encoding: xchunked\r\n") + CHUNKED,
    "a coding behind a vertical tab": head(b"Transfer-Encoding: \x0bchunked\r\n") + CHUNKED,
    "a coding with a parameter": head(b"Transfer-Encoding: chunked;q=1\r\n") + CHUNKED,
    "a coding in HTTP/1.0": head(b"Transfer-Encoding: chunked\r\n", version=b"1.0") + CHUNKED,
    "length, then coding": head(LENGTH, b"Transfer-Encoding: chunked\r\n") + CHUNKED,
    "coding, then length": head(b"Transfer-Encoding: chunked\r\n", LENGTH) + CHUNKED,
    "two lengths": head(LENGTH, b"Content-Length: 5\r\n") + BODY,
    "one length twice": head(LENGTH, LENGTH) + BODY,
    "a list of lengths": head(b"Content-Length: 20, 20\r\n") + BODY,
    "a length with a plus": head(b"Content-Length: +20\r\n") + BODY,
    "a negative length": head(b"Content-Length: -20\r\n") + BODY,
    "a hexadecimal length": head(b"Content-Length: 0x14\r\n") + BODY,
    "a length with an underscore": head(b"Content-Length: 2_0\r\n") + BODY,
    "a length behind a form feed": head(b"Content-Length: \x0c20\r\n") + BODY,
    "an empty length": head(b"Content-Length:\r\n") + BODY,
    "a length beyond 2^63": head(b"Content-Length: 9223372036854775808\r\n") + BODY,
    "a length beyond 2^64": head(b"Content-Length: 18446744073709551636\r\n") + BODY,
    "two hosts": head(b"Host: h\r\n", LENGTH) + BODY,
    "two hosts in HTTP/1.0": head(b"Host: h\r\n", LENGTH, version=b"1.0") + BODY,
    "a list of hosts": head(LENGTH, host=b"Host: a, b\r\n") + BODY,
    "a host with a space": head(LENGTH, host=b"Host: a b\r\n") + BODY,
    "a host with a user": head(LENGTH, host=b"Host: a@b\r\n") + BODY,
    "LF behind the first line": head(LENGTH).replace(b"\r\n", b"\n", 1) + BODY,
    "LF behind a header": head(LENGTH).replace(b"h\r\n", b"h\n") + BODY,
    "LF behind the last header": head(LENGTH)[:-4] + b"\n\r\n" + BODY,
    "LF behind the head": head(LENGTH)[:-2] + b"\n" + BODY,
    "LF before the head": b"\n" + head(LENGTH) + BODY,
    "LF everywhere": head(LENGTH).replace(b"\r\n", b"\n") + BODY,
    "CR in the first line": head(LENGTH).replace(b" HTTP", b"\r HTTP") + BODY,
    "CR in a value": head(b"X: a\rContent-Length: 5\r\n", LENGTH) + BODY,
    "CR twice": head(b"X: a\r\r\n", LENGTH) + BODY,
    "a folded line": head(b"X: a\r\n Content-Length: 5\r\n", LENGTH) + BODY,
    "a folded coding": head(b"Transfer-Encoding:\r\n chunked\r\n") + CHUNKED,
    "a folded first header": head(LENGTH, host=b" Host: h\r\n") + BODY,
    "a space before the colon": head(b"Content-Length : 20\r\n") + BODY,
    "a space before the colon of the coding": head(b"Transfer-Encoding : chunked\r\n") + CHUNKED,
    "a tab before the colon of the host": head(LENGTH, host=b"Host\t: h\r\n") + BODY,
    "a line without a colon": head(b"X\r\n", LENGTH) + BODY,
    "a header without a name": head(b": x\r\n", LENGTH) + BODY,
    "a NUL in a value": head(b"X: a\0b\r\n", LENGTH) + BODY,
    "a NUL in a name": head(b"Content-Length\0: 20\r\n") + BODY,
    "another version": head(LENGTH, version=b"1.2") + BODY,
    "a version of two digits": head(LENGTH, version=b"1.10") + BODY,
    "no version": b"GET /v1/models/half_plus_two\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("request_bytes", AMBIGUOUS_HEADS.values(), ids=AMBIGUOUS_HEADS)
def test_ambiguous_heads_are_refused(request_bytes: bytes, server: ServerProcess) -> None:
    assert statuses(ask(server, request_bytes + SMUGGLED)) == [400]
    # Earlier requests on the connection are answered; the pieces may arrive separately.
    assert statuses(ask(server, GOOD + request_bytes + SMUGGLED)) == [200, 400]
    middle = request_bytes.index(b"\n") + 1
    assert statuses(ask(server, request_bytes[:middle], request_bytes[middle:])) == [400]


AMBIGUOUS_CHUNKS = {
    "2^63": b"8000000000000000\r\nx",
    "2^64 - 1": b"ffffffffffffffff\r\nx",
    "2^64": b"10000000000000000\r\nx",
    "2^64 + 20": b"10000000000000014\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a plus": b"+14\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a minus": b"-14\r\n" + BODY + b"\r\n0\r\n\r\n",
    "0x": b"0x14\r\n" + BODY + b"\r\n0\r\n\r\n",
    "an underscore": b"1_4\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a space before": b" 14\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a space behind": b"14 \r\n" + BODY + b"\r\n0\r\n\r\n",
    "no size": b"\r\n" + BODY + b"\r\n0\r\n\r\n",
    "an extension without size": b";a=b\r\n" + BODY + b"\r\n0\r\n\r\n",
    "LF behind the size": b"14\n" + BODY + b"\r\n0\r\n\r\n",
    "LF in an extension": b"14;a\nb\r\n" + BODY + b"\r\n0\r\n\r\n",
    "CR in an extension": b"14;a\rb\r\n" + BODY + b"\r\n0\r\n\r\n",
    "LF behind a chunk": b"14\r\n" + BODY + b"\n0\r\n\r\n",
    "more than the size": b"14\r\n" + BODY + b"x\r\n0\r\n\r\n",
    "LF behind the last chunk": b"14\r\n" + BODY + b"\r\n0\n\r\n",
    "LF behind the trailers": b"14\r\n" + BODY + b"\r\n0\r\n\n",
    "LF in a trailer": b"14\r\n" + BODY + b"\r\n0\r\nX: y\n\r\n",
    "no size at all": b"not a size\r\n",
}


@pytest.mark.parametrize("chunks", AMBIGUOUS_CHUNKS.values(), ids=AMBIGUOUS_CHUNKS)
def test_ambiguous_chunks_are_refused(chunks: bytes, server: ServerProcess) -> None:
    start = head(b"Transfer-Encoding: chunked\r\n")
    assert statuses(ask(server, start + chunks + SMUGGLED)) == [400]
    assert statuses(ask(server, GOOD + start + chunks + SMUGGLED)) == [200, 400]
    assert statuses(ask(server, start, chunks[:1], chunks[1:] + SMUGGLED)) == [400]


@pytest.mark.parametrize(
    "request_bytes",
    [
        GOOD,
        b"\r\n" + GOOD,
        head(b"TRANSFER-ENCODING:CHUNKED\r\n") + CHUNKED,
        head(b"Transfer-Encoding:\t chunked \t\r\n")
        + b"5;a=b\r\n%s\r\n00f\r\n%s\r\n000\r\nX: y\r\n\r\n" % (BODY[:5], BODY[5:]),
        head(b"content-length: 00000000000000000020\r\n", host=b"hOsT: [::1]:8501\r\n") + BODY,
        head(LENGTH, host=b"Host:\r\n") + BODY,
        head(LENGTH, b"Connection: keep-alive\r\n", version=b"1.0", host=b"") + BODY,
    ],
    ids=repr,
)
def test_unambiguous_requests_are_answered_and_the_connection_is_kept(
    request_bytes: bytes, server: ServerProcess
) -> None:
    last = b"GET /v1/models/half_plus_two HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    assert statuses(ask(server, request_bytes * 3 + last)) == [200] * 4
    single = [bytes([byte]) for byte in request_bytes]
    assert statuses(ask(server, *single, *single, last)) == [200] * 3
