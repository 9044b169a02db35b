from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from servable._server.admin import http as admin_http
from servable._server.admin.api import AdminRequest, AppliedError
from servable._server.admin.http import AdminServer
from servable.errors import Code, ConfigError, NotFoundError, ServableError
from support.certificates import Authority


class Api:
    """Answers what it got; some paths fail."""

    def answer(self, request: AdminRequest) -> Any:
        if request.path == "/missing":
            raise NotFoundError("there is none")
        if request.path == "/late":
            raise AppliedError("it failed", code=Code.DATA_LOSS)
        if request.path == "/text":
            return "text\n"
        if request.path == "/bug":
            raise RuntimeError("secret")
        return {"method": request.method, "body": request.body.decode()}


def authorize(headers: Sequence[tuple[str, str]]) -> None:
    """Let in whoever does not say that he is nobody."""
    if ("X-Who", "nobody") in headers:
        raise ServableError("who are you?", code=Code.UNAUTHENTICATED)


@pytest.fixture
def server() -> Iterator[AdminServer]:
    made = AdminServer(Api(), "127.0.0.1", 0, authorize)  # type: ignore[arg-type]  # it answers
    made.start()
    yield made
    made.close()


def call(
    server: AdminServer, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, data


def raw(server: AdminServer, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(data)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_answers_are_json(server: AdminServer, method: str) -> None:
    status, body = call(server, method, "/x", b"hello")
    assert (status, json.loads(body)) == (200, {"method": method, "body": "hello"})
    assert call(server, "GET", "/text") == (200, b"text\n")


def test_who_may_not_administer_gets_nowhere(server: AdminServer) -> None:
    status, body = call(server, "PUT", "/bug", b"x", X_Who="nobody")
    assert (status, json.loads(body)["error"]) == (401, "who are you?")


def test_a_change_is_logged_also_if_a_model_fails_after_it(
    server: AdminServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for method, path in (("PUT", "/x"), ("PUT", "/late"), ("PUT", "/missing"), ("GET", "/x")):
        call(server, method, path, b"")
    assert caplog.messages == ["Administration: PUT /x", "Administration: PUT /late: it failed"]


def test_errors_carry_code_text_and_status(server: AdminServer) -> None:
    status, body = call(server, "GET", "/missing")
    assert (status, json.loads(body)) == (404, {"error": "there is none", "code": "NOT_FOUND"})
    status, body = call(server, "GET", "/late")
    assert (status, json.loads(body)) == (
        500,
        {"error": "it failed", "code": "DATA_LOSS", "applied": True},
    )
    status, body = call(server, "GET", "/bug")
    assert status == 500
    assert b"secret" not in body


def test_every_code_has_a_status() -> None:
    assert set(admin_http._HTTP_STATUS) == set(Code)


def test_requests_of_web_pages_are_refused(server: AdminServer) -> None:
    assert call(server, "PUT", "/x", b"{}", Origin="http://evil")[0] == 403


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 1048577\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Content-Length: x\r\n",
        b"Content-Length: 2\r\nContent-Length: 2\r\n",
        b"Transfer-Encoding: chunked\r\n",
    ],
)
def test_bodies_without_a_fit_length_are_refused(server: AdminServer, head: bytes) -> None:
    request = b"PUT /x HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n"
    assert raw(server, request).startswith(b"HTTP/1.0 400 ")


def test_a_request_that_does_not_arrive_is_given_up(
    server: AdminServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_http, "REQUEST_SECONDS", 0.05)
    assert b"The body broke off" in raw(
        server, b"PUT /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab"
    )
    assert b'"error"' in raw(server, b"PUT /x HTT")
    assert raw(server, b"PUT /x HTTP/1.1\r\nContent-Len") != b""
    assert raw(server, b"") == b""


def test_a_handshake_that_stalls_is_given_up_and_holds_up_nobody(
    server: AdminServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path, "authority")
    identity = authority.server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    server.set_tls(context)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as stalled:
        stalled.sendall(b"\x16\x03\x01")
        connection = http.client.HTTPSConnection(
            "127.0.0.1", server.port, timeout=20, context=authority.context()
        )
        connection.request("GET", "/text")
        assert connection.getresponse().read() == b"text\n"
        connection.close()
    monkeypatch.setattr(admin_http, "REQUEST_SECONDS", 0.05)
    assert raw(server, b"\x16\x03\x01")[:1] in (b"", b"\x15")  # nothing but an alert


def test_connections_beyond_the_limit_are_closed(server: AdminServer) -> None:
    held = [
        socket.create_connection(("127.0.0.1", server.port), timeout=20)
        for _ in range(admin_http.MAX_CONNECTIONS)
    ]
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as beyond:
        assert beyond.recv(1) == b""
    for connection in held:
        connection.sendall(b"GET /text HTTP/1.0\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.0 200 ")
        connection.close()


def test_a_port_that_is_taken_is_an_error_that_names_it(server: AdminServer) -> None:
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{server.port} for admin"):
        AdminServer(Api(), "127.0.0.1", server.port, authorize)  # type: ignore[arg-type]  # never asked


def get_as(server: AdminServer, host: str | None) -> int:
    head = "" if host is None else f"Host: {host}\r\n"
    answer = raw(server, f"GET /x HTTP/1.1\r\n{head}Connection: close\r\n\r\n".encode())
    return int(answer.split()[1])


def test_only_its_own_names_are_answered_to() -> None:
    hosts = ["Admin.Example.", "[fd00::7]"]
    made = AdminServer(Api(), "127.0.0.1", 0, authorize, hosts=hosts)  # type: ignore[arg-type]  # it answers
    made.start()
    for host in (
        "localhost", "LocalHost", "localhost.", f"localhost:{made.port}", "localhost:", "127.0.0.1", "127.0.0.1:1",
        "127.8.9.10", "[::1]", "[::1]:8590", "[::ffff:127.0.0.1]", "admin.example", "admin.example:443",
        "ADMIN.EXAMPLE.", "[fd00::7]:8590", "[FD00:0::7]",
    ):  # fmt: skip
        assert get_as(made, host) == 200, host
    for host in (
        "evil.example", "evil.example:8590", "localhost.evil.example", "evil.localhost", "127.0.0.1.evil.example",
        "10.0.0.1", "[fd00::8]", "0.0.0.0", "[::]", "admin.example.evil", "admin", "x@localhost", "localhost@evil",
        "127.0.0.1:80:evil", "2130706433", "127.1", "", ":8590", "localhost, evil.example",
    ):  # fmt: skip
        assert get_as(made, host) == 403, host
    made.close()


def test_the_host_is_told_once(server: AdminServer) -> None:
    assert get_as(server, None) == 400
    assert get_as(server, "localhost\r\nHost: localhost") == 400
    assert int(raw(server, b"GET /x HTTP/1.0\r\n\r\n").split()[1]) == 200
    assert int(raw(server, b"GET /x HTTP/1.0\r\nHost: evil\r\n\r\n").split()[1]) == 403


def test_a_refused_host_is_told_which_flag_allows_it(server: AdminServer) -> None:
    answer = raw(server, b"GET /x HTTP/1.1\r\nHost: admin.example:1\r\nConnection: close\r\n\r\n")
    assert b"--admin_api_hosts=admin.example allows it" in answer


def test_the_address_that_a_connection_came_to_is_its_own_name() -> None:
    made = AdminServer(Api(), "0.0.0.0", 0, authorize)  # type: ignore[arg-type]  # it answers
    made.start()
    assert get_as(made, "127.0.0.1") == 200
    assert get_as(made, "192.0.2.1") == 403
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; tells the address of this machine
        own = probe.getsockname()[0]
    with socket.create_connection((own, made.port), timeout=20) as connection:
        connection.sendall(f"GET /x HTTP/1.1\r\nHost: {own}\r\nConnection: close\r\n\r\n".encode())
        assert connection.recv(65536).split()[1] == b"200"
    made.close()


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:3000", ""])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_pages_administer_nothing(server: AdminServer, method: str, origin: str) -> None:
    assert call(server, method, "/x", Origin=origin)[0] == 403
