"""Exact bytes over a TCP connection, and the HTTP responses in the answer."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import time

from support.recordings.cases import Answer

_UNSTABLE_HEADERS = ("date",)
_QUIET_SECONDS = 0.4
"""With `is_raw`, a server that is silent for this long has sent everything."""
_FIRST_BYTE_SECONDS = 1.5


def exchange(port: int, request: bytes, timeout: float, *, is_raw: bool) -> tuple[bytes, bool, str]:
    """Send bytes, and read until there is one whole response; with `is_raw`, until the server is silent.

    Returns:
        The received bytes, whether the server closed the connection, and why there is no answer: `closed`, `hang`, or
        nothing.
    """
    last = end = time.monotonic() + timeout
    try:
        connection = socket.create_connection(("127.0.0.1", port), timeout=timeout)
    except OSError:
        return b"", True, "closed"
    received = bytearray()
    unsent = memoryview(request)
    with connection:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while (left := end - time.monotonic()) > 0:
            writing = [connection] if unsent else []
            readable, writable, _ = select.select([connection], writing, [], left)
            if writable:
                try:
                    unsent = unsent[connection.send(unsent[: 1 << 16]) :]
                except BlockingIOError:
                    pass
                except OSError:
                    unsent = unsent[:0]
                if is_raw and not unsent:
                    quiet = _QUIET_SECONDS if received else _FIRST_BYTE_SECONDS
                    end = min(last, time.monotonic() + quiet)
            if readable:
                piece = b""
                with contextlib.suppress(OSError):
                    piece = connection.recv(1 << 18)
                if not piece:
                    return bytes(received), True, "closed"
                received += piece
                if is_raw:
                    end = min(last, time.monotonic() + _QUIET_SECONDS)
                elif parse_response(bytes(received), is_final=False)[0] is not None:
                    return bytes(received), False, ""
    return bytes(received), False, "hang"


def parse_response(data: bytes, *, is_final: bool) -> tuple[Answer | None, bytes]:
    """The first response in `data`, and the rest.

    Args:
        data: The received data.
        is_final: Nothing more will arrive: a truncated body counts.

    Returns:
        The response, with its body in `bytes`, and the rest; `None` and all of `data` while it is incomplete.
    """
    head, blank_line, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    status_line = re.fullmatch(r"HTTP/\d\.\d (\d{3})(?: (.*))?", lines[0])
    if not blank_line or status_line is None:
        return None, data
    fields = (line.partition(":") for line in lines[1:])
    headers = {
        name.lower(): value.strip()
        for name, _, value in fields
        if name.lower() not in _UNSTABLE_HEADERS
    }
    status = int(status_line[1])
    rest = b""
    if status < 200 or status in (204, 304):
        body, rest = b"", body
    elif "content-length" in headers:
        length = int(headers["content-length"])
        if len(body) < length and not is_final:
            return None, data
        body, rest = body[:length], body[length:]
    elif "chunked" in headers.get("transfer-encoding", ""):
        decoded = _dechunked(body)
        if decoded is not None:
            body, rest = decoded
        elif not is_final:
            return None, data
    elif not is_final:
        return None, data
    reason = status_line[2] or ""
    return {"status": status, "reason": reason, "headers": headers, "bytes": body}, rest


def _dechunked(body: bytes) -> tuple[bytes, bytes] | None:
    """The content of a chunked body, and the rest; `None` if it is truncated."""
    content, at = bytearray(), 0
    while (line_end := body.find(b"\r\n", at)) >= 0:
        size = int(body[at:line_end] or b"0", 16)
        start = line_end + 2
        at = start + size + 2
        if len(body) < at:
            break
        content += body[start : start + size]
        if size == 0:
            return bytes(content), body[at:]
    return None
