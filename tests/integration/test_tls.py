"""TLS for both protocols: TensorFlow Serving's `--ssl_config_file`, and flags that name PEM files."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.certificates import Authority, Identity, ssl_config
from support.grpc_client import GrpcClient, RpcError
from support.server_process import ServerProcess, StartServer, free_port

QUICK = "--credentials_poll_wait_seconds=0.05"
INPUT = {"x": np.array([1.0], np.float32)}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The authority that clients trust."""
    return Authority(tmp_path, "authority")


@pytest.fixture
def start(start_server: StartServer, demo_models: Path) -> Callable[..., ServerProcess]:
    """Starts a server of half_plus_two that listens; the test may lack the credentials to call it."""
    return lambda *flags: start_server({"half_plus_two": demo_models / "half_plus_two"}, *flags)


def https_predict(port: int, context: ssl.SSLContext, patience_seconds: float = 60.0) -> object:
    """Predict over HTTPS; waits until the port is open and the model is loaded."""
    deadline = time.monotonic() + patience_seconds
    while True:
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=20)
        try:
            connection.request("POST", "/v1/models/half_plus_two:predict", b'{"instances": [1.0]}')
            answer = connection.getresponse()
            document = json.loads(answer.read())
            if answer.status == 200:
                return document
        except ConnectionRefusedError:
            document = "connection refused"
        finally:
            connection.close()
        assert time.monotonic() < deadline, document
        time.sleep(0.02)


def serial_number(port: int, context: ssl.SSLContext) -> str:
    """The serial number of the certificate on a new connection."""
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=20)
    connection.connect()
    try:
        certificate = connection.sock.getpeercert()
    finally:
        connection.close()
    assert certificate
    return str(certificate["serialNumber"])


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_open(port: int) -> bool:
    """Whether a port has a listener."""
    try:
        socket.create_connection(("localhost", port), timeout=20).close()
    except ConnectionRefusedError:
        return False
    return True


def files(identity: Identity) -> list[str]:
    """The flags with a server's files."""
    return [
        f"--tls_certificate_file={identity.certificate}",
        f"--tls_key_file={identity.key}",
    ]


PREDICTED = {"predictions": [2.5]}


def test_both_protocols_speak_tls_on_both_ports(
    start: Callable[..., ServerProcess], authority: Authority, grpc_client: GrpcClient
) -> None:
    server = start(*files(authority.server()))
    for port in (server.rest_port, server.port):
        assert https_predict(port, authority.context()) == PREDICTED
        grpc_client.call("secure", port, str(authority.file))
        assert grpc_client.predict(port, "half_plus_two", INPUT)["outputs"]["y"] == [2.5]
    assert "with TLS" in server.log

    with pytest.raises((ConnectionError, http.client.HTTPException)):
        server.get("/v1/models/half_plus_two")
    with pytest.raises(RpcError, match="UNAVAILABLE"):
        grpc_client.predict(f"127.0.0.1:{server.port}", "half_plus_two", INPUT)
    stranger = Authority(authority.file.parent, "stranger")
    with pytest.raises(ssl.SSLCertVerificationError):
        https_predict(server.port, stranger.context())


@pytest.mark.parametrize("protocols", [["h2"], ["http/1.1"], ["h2", "http/1.1"], []])
def test_the_protocol_is_agreed_on(
    protocols: list[str], start: Callable[..., ServerProcess], authority: Authority
) -> None:
    server = start(*files(authority.server()))
    https_predict(server.port, authority.context())
    context = authority.context()
    if protocols:
        context.set_alpn_protocols(protocols)
    with (
        socket.create_connection(("127.0.0.1", server.port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        assert secure.selected_alpn_protocol() == (protocols[0] if protocols else None)
        assert secure.version() == "TLSv1.3"


def test_a_client_without_the_right_certificate_gets_nowhere(
    start: Callable[..., ServerProcess], authority: Authority, grpc_client: GrpcClient
) -> None:
    server = start(*files(authority.server()), f"--tls_client_ca_file={authority.file}")
    friend = authority.client()
    impostor = Authority(authority.file.parent, "stranger").client("impostor")
    assert https_predict(server.port, authority.context(friend)) == PREDICTED
    for wrong in (None, impostor):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            https_predict(server.port, authority.context(wrong))

    def predict(client: Identity | None) -> object:
        names = (str(client.certificate), str(client.key)) if client else ()
        grpc_client.call("secure", server.port, str(authority.file), *names)
        return grpc_client.predict(server.port, "half_plus_two", INPUT)["outputs"]["y"]

    assert predict(friend) == [2.5]
    for wrong in (None, impostor):
        with pytest.raises(RpcError, match="UNAVAILABLE"):
            predict(wrong)


def test_the_file_of_tensorflow_serving_is_for_grpc_and_leaves_rest_as_it_was(
    start: Callable[..., ServerProcess],
    authority: Authority,
    grpc_client: GrpcClient,
    tmp_path: Path,
) -> None:
    config, socket_path = tmp_path / "ssl.config", tmp_path / "grpc.sock"
    config.write_text(ssl_config(authority.server(), client_ca=authority.file))
    server = start(f"--ssl_config_file={config}", f"--grpc_socket_path={socket_path}")
    server.wait_until_available("half_plus_two")
    assert "REST goes without TLS" in server.log
    assert server.predict("half_plus_two", {"instances": [1.0]}).json() == PREDICTED

    friend = authority.client()
    for target in (server.port, f"unix:{socket_path}"):
        grpc_client.call(
            "secure", target, str(authority.file), str(friend.certificate), str(friend.key)
        )
        assert grpc_client.predict(target, "half_plus_two", INPUT)["outputs"]["y"] == [2.5]
        grpc_client.call("secure", target, str(authority.file))
        with pytest.raises(RpcError, match="UNAVAILABLE"):
            grpc_client.predict(target, "half_plus_two", INPUT)
    # The port without certificates cannot be used to bypass them.
    with pytest.raises(RpcError, match=r"UNAUTHENTICATED.*over TLS only"):
        grpc_client.predict(server.rest_port, "half_plus_two", INPUT)


def test_new_certificates_are_taken_up_and_bad_ones_are_not(
    start: Callable[..., ServerProcess], authority: Authority
) -> None:
    identity, context = authority.server(), authority.context()
    server = start(*files(identity), QUICK)
    https_predict(server.port, context)
    before = serial_number(server.port, context)
    kept = http.client.HTTPSConnection("localhost", server.port, context=context, timeout=20)
    kept.request("GET", "/v1/models/half_plus_two")
    assert kept.getresponse().read()

    authority.server()  # replaces both files
    until(lambda: serial_number(server.port, context) != before)
    kept.request("GET", "/v1/models/half_plus_two")
    assert b"AVAILABLE" in kept.getresponse().read()
    kept.close()

    after = serial_number(server.port, context)
    identity.certificate.write_text("no certificate")
    until(lambda: "cannot be used; the old ones stay" in server.log)
    assert f"{identity.certificate} holds no certificate in PEM form" in server.log
    assert serial_number(server.port, context) == after
    authority.server()
    until(lambda: serial_number(server.port, context) != after)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            "key of another",
            "Failed to BuildAndStart gRPC server: server_key in {file} is not the key",
        ),
        ("no key", "server_key in {file} holds no private key in PEM form"),
        ("no message", "Invalid protobuf file: '{file}'"),
        ("no file", "NOT_FOUND: {file}; No such file or directory"),
    ],
)
def test_an_unusable_flag_ends_the_start_and_is_named(
    damage: str,
    message: str,
    start: Callable[..., ServerProcess],
    authority: Authority,
    tmp_path: Path,
) -> None:
    file = tmp_path / "ssl.config"
    identity = authority.server()
    other = authority.server("other")
    match damage:
        case "key of another":
            file.write_text(ssl_config(Identity(identity.certificate, other.key)))
        case "no key":
            file.write_text(ssl_config(Identity(identity.certificate, identity.certificate)))
        case "no message":
            file.write_text("server_key {")
    server = start(f"--ssl_config_file={file}")
    assert server.wait() == 255
    assert "Failed to start server. Error: " in server.log
    assert message.format(file=file) in server.log


def test_a_missing_handshake_blocks_no_other_client(
    start: Callable[..., ServerProcess], authority: Authority
) -> None:
    server = start(*files(authority.server()))
    https_predict(server.port, authority.context())
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(50)]
    assert https_predict(server.port, authority.context(), 5) == PREDICTED
    server.terminate()
    assert server.wait(10) == 0, "not even when the server stops"
    for connection in silent:
        connection.close()


def test_the_administration_port_speaks_tls_and_knows_its_clients(
    start: Callable[..., ServerProcess], authority: Authority, tmp_path: Path
) -> None:
    clients = Authority(tmp_path, "clients")
    identity, port = authority.server(), free_port()
    start(
        f"--tls_certificate_file={identity.certificate}",
        f"--tls_key_file={identity.key}",
        f"--tls_client_ca_file={clients.file}",
        f"--admin_api_port={port}",
        QUICK,
    )
    known = authority.context(clients.client())

    def models(context: ssl.SSLContext) -> list[str]:
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=20)
        try:
            connection.request("GET", "/v1/admin/models")
            answer = connection.getresponse()
            assert answer.status == 200
            return [model["name"] for model in json.loads(answer.read())["models"]]
        finally:
            connection.close()

    until(lambda: is_open(port))
    assert models(known) == ["half_plus_two"]
    with pytest.raises((ssl.SSLError, ConnectionError)):
        models(authority.context())  # shows no certificate
    plain = http.client.HTTPConnection("localhost", port, timeout=20)
    plain.request("GET", "/v1/admin/models")
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        plain.getresponse()
    plain.close()

    before = serial_number(port, known)
    authority.server()  # renewed
    until(lambda: serial_number(port, known) != before)
    assert models(known) == ["half_plus_two"]
