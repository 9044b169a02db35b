"""The administration port of the request path, before a control plane that answers what it got."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from servable._server.border.control_plane import AdminAnswer, ControlPlane
from servable._server.border.gateway import Server
from servable._server.config.api_keys import ApiKey
from servable._server.config.server_options import Endpoint, ServerOptions
from servable._server.config.tls import Pem, TlsCredentials
from servable._server.telemetry.families import Family
from servable.errors import Code, ConfigError, ServableError
from support.certificates import Authority

HOSTS = ("localhost", "127.0.0.1", "Admin.Example.", "[fd00::7]")


class Echo(ControlPlane):
    """Answers what it got; some paths fail, and `/wait` waits for `open` or for the client to go."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.waiting = threading.Semaphore(0)
        self.has_seen_a_client_go = threading.Event()

    def administer(
        self, method: str, target: str, body: bytes, is_cancelled: Callable[[], bool]
    ) -> AdminAnswer:
        if target == "/missing":
            return AdminAnswer(Code.NOT_FOUND, "application/json", b"{}")
        if target == "/text":
            return AdminAnswer(Code.OK, "text/plain; charset=utf-8", b"text\n")
        if target == "/refused":
            raise ServableError("it is refused", code=Code.ABORTED)
        if target == "/wait":
            self.waiting.release()
            while not self.open.wait(0.02):
                if is_cancelled():
                    self.has_seen_a_client_go.set()
                    break
        document = {"method": method, "target": target, "body": body.decode()}
        return AdminAnswer(Code.OK, "application/json", json.dumps(document).encode())

    def reload_config(self, config: bytes, is_cancelled: Callable[[], bool]) -> None:
        raise NotImplementedError

    def load_model(self, model: str, config: str | None, is_cancelled: Callable[[], bool]) -> None:
        raise NotImplementedError

    def unload_model(self, model: str, is_cancelled: Callable[[], bool]) -> None:
        raise NotImplementedError

    def scrape(self) -> Sequence[Family]:
        return ()


class Administered:
    """A request path that listens for administration only, and is not opened."""

    def __init__(
        self,
        address: str = "127.0.0.1:0",
        credentials: TlsCredentials | None = None,
        **options: Any,
    ) -> None:
        self.control_plane = Echo()
        endpoint = Endpoint(address, credentials is not None, "administration")
        made = ServerOptions((endpoint,), worker_threads=2, admin_hosts=HOSTS, **options)
        self.server = Server(made, self.control_plane)
        if credentials is not None:
            self.server.set_tls(credentials)
        (self.port,) = self.server.start()

    def call(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes]:
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        ) as connection:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def raw(self, data: bytes, address: str = "127.0.0.1") -> bytes:
        with socket.create_connection((address, self.port), timeout=20) as connection:
            connection.sendall(data)
            answer = b""
            while part := connection.recv(65536):
                answer += part
            return answer

    def get_as(self, host: str | None, address: str = "127.0.0.1") -> int:
        head = "" if host is None else f"Host: {host}\r\n"
        request = f"GET /x HTTP/1.1\r\n{head}Connection: close\r\n\r\n"
        return int(self.raw(request.encode(), address).split()[1])

    def close(self) -> None:
        self.control_plane.open.set()
        self.server.drain(10)


@pytest.fixture
def served() -> Iterator[Administered]:
    with contextlib.closing(Administered()) as made:
        yield made


def test_requests_reach_the_control_plane_unchanged(served: Administered) -> None:
    for method in ("GET", "PUT", "PATCH", "DELETE", "BREW"):
        status, body = served.call(method, "/x%20y?a=%2F&b", b"hello")
        assert status == 200
        expected = {"method": method, "target": "/x%20y?a=%2F&b", "body": "hello"}
        assert json.loads(body) == expected
    assert served.call("GET", "/text") == (200, b"text\n")
    assert served.call("HEAD", "/text") == (200, b"")


def test_the_status_follows_from_the_code(served: Administered) -> None:
    assert served.call("GET", "/missing") == (404, b"{}")
    status, body = served.call("GET", "/refused")
    assert (status, json.loads(body)) == (409, {"error": "it is refused", "code": "ABORTED"})


def test_a_connection_carries_several_requests(served: Administered) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    for _ in range(3):
        connection.request("PUT", "/x", b"{}")
        assert connection.getresponse().read()
    connection.close()


def test_a_body_may_come_in_chunks(served: Administered) -> None:
    request = b"PUT /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert b'"body": "hello"' in served.raw(request + b"5\r\nhello\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 1048577\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Content-Length: x\r\n",
        b"Content-Length: 2\r\nContent-Length: 2\r\n",
    ],
)
def test_bodies_without_a_fit_length_are_refused(served: Administered, head: bytes) -> None:
    request = b"PUT /x HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n"
    assert served.raw(request).startswith(b"HTTP/1.1 400 ")


def test_a_body_that_breaks_off_is_refused(served: Administered) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(b"PUT /wait HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab")
    assert not served.control_plane.waiting.acquire(timeout=0.2)


def test_requests_that_do_not_arrive_time_out() -> None:
    limits = {"header_timeout_seconds": 0.2, "body_timeout_seconds": 0.2}
    with contextlib.closing(Administered(**limits)) as served:
        put = b"PUT /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab"
        answer = served.raw(put)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"The body broke off" in answer
        assert served.raw(b"PUT /x HTT").startswith(b"HTTP/1.1 408 ")


def test_without_a_key_of_its_scope_nothing_is_administered(served: Administered) -> None:
    def key(name: str, scope: str) -> ApiKey:
        return ApiKey(name, scope, hashlib.sha256(name.encode()).digest())

    served.server.set_api_keys([key("app", "predict"), key("ops", "admin")])
    status, body = served.call("PUT", "/wait", b"x")
    assert (status, json.loads(body)["code"]) == (401, "UNAUTHENTICATED")
    status, body = served.call("PUT", "/wait", b"x", x_api_key="app")
    assert (status, json.loads(body)["code"]) == (403, "PERMISSION_DENIED")
    assert b'www-authenticate: Bearer realm="servable"\r\n' in served.raw(
        b"GET /x HTTP/1.0\r\n\r\n"
    )
    assert served.call("PUT", "/x", b"x", x_api_key="ops")[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:3000", ""])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_pages_administer_nothing(served: Administered, method: str, origin: str) -> None:
    status, body = served.call(method, "/x", Origin=origin)
    assert (status, json.loads(body)["code"]) == (403, "PERMISSION_DENIED")


def test_only_its_own_names_are_answered_to(served: Administered) -> None:
    for host in (
        "localhost",
        f"localhost:{served.port}",
        "127.8.9.10",
        "[::1]",
        "admin.example:443",
    ):
        assert served.get_as(host) == 200, host
    for host in ("evil.example", "localhost.evil.example", "10.0.0.1", "0.0.0.0", "2130706433", ""):
        assert served.get_as(host) == 403, host
    for host in ("x@localhost", "localhost, evil.example", "localhost\r\nHost: localhost"):
        assert served.get_as(host) == 400, host
    assert served.get_as(None) == 400
    assert int(served.raw(b"GET /x HTTP/1.0\r\n\r\n").split()[1]) == 200, "no browser"
    assert int(served.raw(b"GET http://evil/x HTTP/1.0\r\n\r\n").split()[1]) == 403


def test_the_refusal_of_a_host_names_the_flag_that_allows_it(served: Administered) -> None:
    answer = served.raw(b"GET /x HTTP/1.1\r\nHost: other.example:1\r\nConnection: close\r\n\r\n")
    assert b"--admin_api_hosts=other.example allows it" in answer


def test_the_address_that_a_connection_came_to_is_its_own_name() -> None:
    with contextlib.closing(Administered("0.0.0.0:0")) as served:
        assert served.get_as("127.0.0.1") == 200
        assert served.get_as("192.0.2.1") == 403
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # sends nothing; tells the address of this machine
            own = probe.getsockname()[0]
        assert served.get_as(own, own) == 200


def test_a_name_with_addresses_of_both_kinds_is_one_of_ipv4() -> None:
    with contextlib.closing(Administered("localhost:0")) as served:
        assert served.call("GET", "/text") == (200, b"text\n")


def test_a_port_that_is_taken_is_an_error_that_names_it(served: Administered) -> None:
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{served.port}"):
        Administered(f"127.0.0.1:{served.port}")


def test_questions_are_answered_while_as_many_changes_wait_as_there_are_threads(
    served: Administered,
) -> None:
    waiting = [socket.create_connection(("127.0.0.1", served.port), timeout=20) for _ in range(20)]
    for connection in waiting:
        connection.sendall(b"PUT /wait HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
    for _ in range(16):
        assert served.control_plane.waiting.acquire(timeout=20)
    assert not served.control_plane.waiting.acquire(timeout=0.1), "further ones wait in order"
    assert served.call("GET", "/text") == (200, b"text\n")
    served.control_plane.open.set()
    for connection in waiting:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.close()


def test_a_client_that_disconnects_is_no_longer_waited_for(served: Administered) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(b"PUT /wait HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        assert served.control_plane.waiting.acquire(timeout=20)
    assert served.control_plane.has_seen_a_client_go.wait(20)


def test_tls_is_that_of_the_other_ports(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    identity = authority.server()

    def pem(path: Path) -> Pem:
        return Pem(str(path), Path(path).read_bytes())

    credentials = TlsCredentials(pem(identity.certificate), pem(identity.key))
    with contextlib.closing(Administered(credentials=credentials)) as served:
        context = authority.context()
        context.set_alpn_protocols(["http/1.1"])
        with (
            socket.create_connection(("127.0.0.1", served.port), timeout=20) as stalled,
            contextlib.closing(
                http.client.HTTPSConnection("localhost", served.port, timeout=20, context=context)
            ) as connection,
        ):
            stalled.sendall(b"\x16\x03\x01")
            connection.request("GET", "/text")
            assert connection.getresponse().read() == b"text\n"
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            served.call("GET", "/text")
        with (
            socket.create_connection(("127.0.0.1", served.port), timeout=20) as stranger,
            pytest.raises(ssl.SSLError),
        ):
            ssl.create_default_context().wrap_socket(stranger, server_hostname="localhost")
