"""Connections of clients: mutual TLS, keys, headers and Unix sockets; with servers of other projects."""

from __future__ import annotations

import http.server
import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from servable.client import Client, Retry, State, Tls
from servable.client._messages import message_class
from servable.errors import Code, ServableError, UnavailableError
from support.certificates import Authority
from support.server_process import StartServer

ONCE = Retry(attempts=1)


class Certificates:
    """Files of an authority, a server's certificate, and a client's."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        self.ca = directory / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        for name, identity in (("server", "models.example"), ("client", "me@example")):
            issued = authority.issue_cert(identity)
            issued.private_key_pem.write_to_path(str(directory / f"{name}.key"))
            issued.cert_chain_pems[0].write_to_path(str(directory / f"{name}.pem"))
        self.directory = directory

    def __getitem__(self, name: str) -> Path:
        return self.directory / name

    def tls(self, **options: Any) -> Tls:
        return Tls(ca=self.ca, server_name="models.example", **options)

    def mutual(self) -> Tls:
        return self.tls(certificate=self["client.pem"], key=self["client.key"])


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


class StatusOverGrpc(grpc.GenericRpcHandler):
    """Answers any call with an available version, and records its metadata."""

    def __init__(self) -> None:
        self.seen: dict[str, str] = {}

    def service(self, details: Any) -> Any:
        self.seen = dict(details.invocation_metadata)
        answer = message_class("tensorflow.serving.GetModelStatusResponse")()
        answer.model_version_status.add(version=3, state=30)
        return grpc.unary_unary_rpc_method_handler(lambda *_: answer.SerializeToString())


@contextmanager
def grpc_server(where: str, credentials: Any = None) -> Iterator[tuple[str, StatusOverGrpc]]:
    handler = StatusOverGrpc()
    with futures.ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, [handler])
        if credentials is None:
            port = server.add_insecure_port(where)
        else:
            port = server.add_secure_port(where, credentials)
        server.start()
        try:
            yield where.replace(":0", f":{port}"), handler
        finally:
            server.stop(None).wait()


class StatusOverHttp(http.server.BaseHTTPRequestHandler):
    """Answers any request with an available version, and records its headers."""

    protocol_version = "HTTP/1.1"
    seen: dict[str, str]

    def do_GET(self) -> None:
        type(self).seen = {name.lower(): value for name, value in self.headers.items()}
        found = {"version": "3", "state": "AVAILABLE"}
        status = {"status": {"error_code": "OK", "error_message": ""}}
        body = json.dumps({"model_version_status": [found | status]}).encode()
        self.send_response(200 if self.path == "/team/v1/models/a%2Fb" else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass

    def address_string(self) -> str:
        return ""  # a Unix socket has none


class QuietServer(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass  # a client without trusted authorities closes the connection


class UnixServer(QuietServer):
    address_family = socket.AF_UNIX

    def get_request(self) -> tuple[Any, Any]:
        connection, _ = super().get_request()
        return connection, ("", 0)


@contextmanager
def running(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def https_server(certificates: Certificates, *, mutual: bool) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates["server.pem"], certificates["server.key"])
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates.ca)
    server = QuietServer(("127.0.0.1", 0), StatusOverHttp)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with running(server):
        yield f"https://127.0.0.1:{server.server_address[1]}/team"


def grpc_credentials(certificates: Certificates, *, mutual: bool) -> Any:
    pair = (certificates["server.key"].read_bytes(), certificates["server.pem"].read_bytes())
    root = certificates.ca.read_bytes() if mutual else None
    return grpc.ssl_server_credentials([pair], root, mutual)


@contextmanager
def secure_server(protocol: str, certificates: Certificates, *, mutual: bool) -> Iterator[str]:
    if protocol == "rest":
        with https_server(certificates, mutual=mutual) as where:
            yield where
    else:
        credentials = grpc_credentials(certificates, mutual=mutual)
        with grpc_server("127.0.0.1:0", credentials) as (where, _):
            yield f"grpcs://{where}"


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
class TestTls:
    def test_a_server_of_a_known_authority_is_trusted(
        self, protocol: str, certificates: Certificates
    ) -> None:
        with (
            secure_server(protocol, certificates, mutual=False) as where,
            Client(where, tls=certificates.tls()) as client,
        ):
            assert client.status("a/b")[0].state is State.AVAILABLE

    def test_other_servers_are_not(self, protocol: str, certificates: Certificates) -> None:
        with secure_server(protocol, certificates, mutual=False) as where:
            for tls in (None, Tls(ca=certificates.ca), Tls(server_name="models.example")):
                with (
                    Client(where, tls=tls, retry=ONCE) as client,
                    pytest.raises(UnavailableError),
                ):
                    client.status("a/b")

    def test_a_client_can_authenticate_itself(
        self, protocol: str, certificates: Certificates
    ) -> None:
        with secure_server(protocol, certificates, mutual=True) as where:
            with Client(where, tls=certificates.mutual()) as client:
                assert client.status("a/b")[0].version == 3
            with (
                Client(where, tls=certificates.tls(), retry=ONCE) as client,
                pytest.raises(UnavailableError),
            ):
                client.status("a/b")


def test_keys_and_headers_are_sent_over_grpc() -> None:
    with (
        grpc_server("127.0.0.1:0") as (where, handler),
        Client(where, api_key="secret", headers={"X-User": "me"}) as client,
    ):
        client.status("m")
    assert handler.seen["authorization"] == "Bearer secret"
    assert handler.seen["x-user"] == "me"


def test_keys_and_headers_are_sent_over_rest_to_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    where = f"http+unix://{str(path).replace('/', '%2F')}/team"
    with (
        running(UnixServer(str(path), StatusOverHttp)),  # type: ignore[arg-type]
        Client(where, api_key="secret", headers={"X-User": "me"}) as client,
    ):
        assert client.status("a/b")[0].version == 3
        with pytest.raises(ServableError) as raised:
            client.status("other")
    assert raised.value.code is Code.NOT_FOUND
    assert "answered 404" in raised.value.message
    assert StatusOverHttp.seen["authorization"] == "Bearer secret"
    assert StatusOverHttp.seen["x-user"] == "me"


def test_grpc_over_a_unix_socket(tmp_path: Path) -> None:
    with (
        grpc_server(f"unix:{tmp_path}/s.sock") as (where, _),
        Client(where) as client,
    ):
        assert client.status("m")[0].version == 3


def test_our_own_server_is_called_with_certificates_and_a_key(
    start_server: StartServer, demo_models: Path, tmp_path: Path
) -> None:
    authority = Authority(tmp_path, "authority")
    server_identity, client_identity = authority.server(), authority.client()
    keys = tmp_path / "keys"
    keys.write_text("app:predict:app-key-0123456789\n")
    server = start_server(
        {"half_plus_two": demo_models / "half_plus_two"},
        f"--tls_certificate_file={server_identity.certificate}",
        f"--tls_key_file={server_identity.key}",
        f"--tls_client_ca_file={authority.file}",
        f"--api_keys_file={keys}",
    )
    trusted = Tls(ca=authority.file)
    mutual = Tls(
        ca=authority.file, certificate=client_identity.certificate, key=client_identity.key
    )
    patient = Retry(attempts=100)
    addresses = (f"grpcs://localhost:{server.port}", f"https://localhost:{server.rest_port}")
    for address in addresses:
        with Client(address, tls=mutual, api_key="app-key-0123456789", retry=patient) as client:
            assert client.predict("half_plus_two", [1.0]).value.tolist() == [2.5]
        with (
            Client(address, tls=mutual, api_key="another-key", retry=ONCE) as client,
            pytest.raises(ServableError) as unknown,
        ):
            client.predict("half_plus_two", [1.0])
        assert unknown.value.code is Code.UNAUTHENTICATED
        with (
            Client(address, tls=trusted, api_key="app-key-0123456789", retry=ONCE) as client,
            pytest.raises(UnavailableError),
        ):
            client.predict("half_plus_two", [1.0])
