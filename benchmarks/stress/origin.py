"""The web server that some models are fetched from, with its failures."""

from __future__ import annotations

import contextlib
import enum
import functools
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

ALWAYS = 1_000_000


class Outage(enum.Enum):
    """Failures of a web server."""

    GONE = 404
    FORBIDDEN = 403
    FAILING = 500
    BUSY = 503
    CLOSING = 0  # close the connection without an answer
    TRUNCATING = -1  # truncate every answer


class Origin:
    """Serves the directories below a root, with listings.

    Attributes:
        outages: The failure of a model's whole base path, by name.
        cuts: The number of truncated answers for each future file.
        broken: The number of failed answers.
    """

    def __init__(self, root: Path) -> None:
        """Listen on a free port of the loopback interface."""
        self.outages: dict[str, Outage] = {}
        self.cuts: Counter[Path] = Counter()
        self.broken = 0
        self._root = root
        self._lock = threading.Lock()
        handler = functools.partial(_Handler, self)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Answer until the end of the block."""
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def look(self, target: str, method: str) -> tuple[Path, Outage | None]:
        """The path of a request, and the failure of its answer; counts failures."""
        path = self._root / unquote(target.partition("?")[0]).strip("/")
        name = path.relative_to(self._root).parts[:1]
        outage = (self.outages.get(name[0]) if name else None) or self._cut(path, method)
        if outage is not None:
            with self._lock:
                self.broken += 1
        return path, outage

    def _cut(self, path: Path, method: str) -> Outage | None:
        """Whether this answer is truncated."""
        if method != "GET":
            return None
        with self._lock:
            if not self.cuts[path]:
                return None
            self.cuts[path] -= 1
        return Outage.TRUNCATING


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, origin: Origin, *arguments: Any) -> None:
        self._origin = origin
        super().__init__(*arguments)  # answers the requests of one connection

    def do_GET(self) -> None:
        path, outage = self._origin.look(self.path, self.command)
        if outage is Outage.CLOSING:
            self.close_connection = True
            return
        if outage is not None and outage is not Outage.TRUNCATING:
            self._send(outage.value, b"", "")
            return
        try:
            if path.is_dir():
                names = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir())
                body = "".join(f'<a href="{name}">{name}</a>\n' for name in names).encode()
                self._send(200, body, "", is_cut=outage is not None)
            else:
                stat = path.stat()
                tag = f'"{stat.st_ino}-{stat.st_mtime_ns}-{stat.st_size}"'
                is_head = self.command == "HEAD"
                self._send(
                    200,
                    b"" if is_head else path.read_bytes(),
                    tag,
                    stat.st_size,
                    outage is not None,
                )
        except OSError:
            self._send(404, b"", "")

    do_HEAD = do_GET  # noqa: N815

    def _send(
        self, status: int, body: bytes, tag: str, size: int | None = None, is_cut: bool = False
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if size is None else size))
        if tag:
            self.send_header("ETag", tag)
        else:
            self.send_header("Content-Type", "text/html")
        self.end_headers()
        if self.command == "HEAD":
            return
        if is_cut:
            body = body[: len(body) // 2]
            self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.write(body)
            self.wfile.flush()
            if is_cut:
                self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        """Log nothing."""
