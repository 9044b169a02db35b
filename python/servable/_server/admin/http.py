"""HTTP for the administration API: one request a connection, everything bounded.

The control plane is asked rarely, so the standard library's server is enough. It gives each
connection a thread; how many there are, how large a request is and how long it may take to arrive
have limits, so that nobody who can reach the port can exhaust the server.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import select
import socket
import ssl
import threading
from collections.abc import Callable, Collection, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

from servable._server.admin.api import AdminApi, AdminRequest, AppliedError
from servable.errors import Code, ConfigError, ServableError

_log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1 << 20
"""The largest body: a model is described in a few kilobytes."""

MAX_CONNECTIONS = 16
"""How many requests are worked on at once; a change that loads a model holds one while it waits."""

REQUEST_SECONDS = 10.0
"""How long a request may take to arrive."""

_CLOSED = getattr(select, "POLLRDHUP", 0)
"""What tells that a client has closed its connection; where the system does not, only errors on it do."""

Authorize: TypeAlias = Callable[[Sequence[tuple[str, str]]], None]
"""Raises what the client gets, if a request with these headers may not administer."""

_LOOK_SECONDS = 0.1
"""How soon the server notices that it is to close."""

_HTTP_STATUS = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}


class AdminServer:
    """The administration API on a port of its own."""

    def __init__(
        self,
        api: AdminApi,
        host: str,
        port: int,
        authorize: Authorize,
        tls: ssl.SSLContext | None = None,
        hosts: Collection[str] = (),
    ) -> None:
        """Bind the port; requests wait until `start`.

        Args:
            api: What is asked.
            host: Where to listen.
            port: Which port.
            authorize: Says who may ask.
            tls: What connections are encrypted with, if they are.
            hosts: The names that requests may ask for, beside those of loopback addresses, `host`,
                and the address that a connection came to.

        Raises:
            ConfigError: The port is taken or may not be bound.
        """
        try:
            self._server = _Server(api, host, port, authorize, tls, hosts)
        except OSError as error:
            message = (
                f"cannot listen on {host}:{port} for administration: {error.strerror or error}"
            )
            raise ConfigError(message) from error
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_LOOK_SECONDS,), name="admin-api", daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def set_tls(self, tls: ssl.SSLContext | None) -> None:
        """Encrypt connections that come from now on with this."""
        self._server.tls = tls

    def close(self) -> None:
        """Stop accepting; requests under way go on while the process does."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = MAX_CONNECTIONS

    def __init__(
        self,
        api: AdminApi,
        host: str,
        port: int,
        authorize: Authorize,
        tls: ssl.SSLContext | None,
        hosts: Collection[str],
    ) -> None:
        self.hosts = {_plain_host(name) for name in ("localhost", host, *hosts)}
        self.api = api
        self.authorize = authorize
        self.tls = tls
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # Not the parent's, which asks the name service who the address is.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that goes away is not worth a line on stderr.
        _log.debug("A request for administration broke off", exc_info=True)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    is_port = colon and (port.isdigit() or not port) and (":" not in name or name.endswith("]"))
    return name if is_port else host


def _plain_host(host: str) -> str:
    """A name or an address, in the one way to spell it here."""
    host = host.strip().strip("[]").rstrip(".").lower()
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "servable"
    sys_version = ""

    request: socket.socket

    def setup(self) -> None:
        tls = self.server.tls
        if tls is not None:
            # Not where connections are accepted, which a handshake that stalls would hold up.
            self.request = tls.wrap_socket(
                self.request, server_side=True, do_handshake_on_connect=False
            )
        # Bounds the request as a whole; a limit on each read would let a trickle go on for ever.
        self._arrival = threading.Timer(REQUEST_SECONDS, self._give_up)
        self._arrival.daemon = True
        self._arrival.start()
        if isinstance(self.request, ssl.SSLSocket):
            try:
                self.request.do_handshake()
            except BaseException:
                self._arrival.cancel()
                self.request.close()
                raise
        super().setup()

    def finish(self) -> None:
        self._arrival.cancel()
        super().finish()
        if isinstance(self.request, ssl.SSLSocket):
            # The server knows only the socket below, which has handed its connection over.
            self.server.shutdown_request(self.request)

    def _give_up(self) -> None:
        with contextlib.suppress(OSError):
            # Not the method of an encrypted socket, which would go on without encryption.
            socket.socket.shutdown(self.request, socket.SHUT_RD)

    def _answer(self) -> None:
        try:
            self._refuse_web_pages()
            request = AdminRequest(self.command, self.path, self._body(), self._is_awaited)
            self.server.authorize(self.headers.items())
            self._arrival.cancel()
            answer = self.server.api.answer(request)
        except ServableError as error:
            document: dict[str, Any] = {"error": error.message, "code": error.code.name}
            if isinstance(error, AppliedError):
                document["applied"] = True
                _log.warning("Administration: %s %s: %s", self.command, self.path, error.message)
            self._reply(_HTTP_STATUS[error.code], document)
        except Exception:
            _log.exception("A request for administration failed")
            self._reply(500, {"error": "internal error; see the log", "code": Code.INTERNAL.name})
        else:
            if self.command != "GET":
                _log.info("Administration: %s %s", self.command, self.path)
            self._reply(200, answer)

    do_GET = do_PUT = do_PATCH = do_DELETE = do_POST = do_HEAD = do_OPTIONS = _answer  # noqa: N815

    def _is_awaited(self) -> bool:
        """Whether the client may still read an answer."""
        connection = select.poll()
        connection.register(self.request, _CLOSED)
        return not connection.poll(0)

    def _refuse_web_pages(self) -> None:
        """Refuse what a page in a browser on this machine may send, whatever its host's name has been resolved to.

        Web pages can reach loopback addresses, by their own name too if its address is changed to one (DNS rebinding).
        The browser tells that name, and the page cannot change it.
        """
        if self.headers.get("Origin") is not None:
            raise ServableError("Requests of web pages are refused", code=Code.PERMISSION_DENIED)
        hosts = self.headers.get_all("Host") or []
        if not hosts and self.request_version == "HTTP/1.0":
            return  # no browser
        if len(hosts) != 1:
            message = f"A request has one header Host; this one has {len(hosts)}"
            raise ServableError(message, code=Code.INVALID_ARGUMENT)
        host = _plain_host(_without_port(hosts[0]))
        own_address = _plain_host(str(self.request.getsockname()[0]))
        if not (host in self.server.hosts or host == own_address or _is_loopback(host)):
            raise ServableError(
                f"Administration is not offered under the name {host[:100]}; --admin_api_hosts={host[:100]} allows it",
                code=Code.PERMISSION_DENIED,
            )

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") is not None:
            raise ServableError("A body needs a Content-Length", code=Code.INVALID_ARGUMENT)
        text = ", ".join(self.headers.get_all("Content-Length", ["0"]))
        if not (text.isascii() and text.isdigit()) or len(text) > 18:
            raise ServableError(f"Content-Length is {text}", code=Code.INVALID_ARGUMENT)
        length = int(text)
        if length > MAX_BODY_BYTES:
            message = f"The body has {length} bytes; the limit is {MAX_BODY_BYTES}"
            raise ServableError(message, code=Code.INVALID_ARGUMENT)
        body = self.rfile.read(length)
        if len(body) < length:
            raise ServableError("The body broke off", code=Code.INVALID_ARGUMENT)
        return body

    def _reply(self, status: int, answer: dict[str, Any] | str) -> None:
        if isinstance(answer, str):
            body, content_type = answer.encode(), "text/plain; charset=utf-8"
        else:
            body, content_type = (json.dumps(answer, indent=2) + "\n").encode(), "application/json"
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if status == 401:
            self.send_header("WWW-Authenticate", 'Bearer realm="servable"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no request that could be worked on."""
        del explain
        self.close_connection = True
        self._reply(code, {"error": message or "Bad request"})

    def log_message(self, *_: object) -> None:
        """Log nothing here; changes are logged where they are made."""
