"""Unix sockets: `--grpc_socket_path` of TensorFlow Serving, and one for REST; each accepts both protocols."""

from __future__ import annotations

import http.client
import json
import socket
import stat
from pathlib import Path

import numpy as np
import pytest

from support.grpc_client import GrpcClient
from support.server_process import ServerProcess, StartServer

PREDICT = "/v1/models/half_plus_two:predict"


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(str(self._path))


def predict(path: Path) -> object:
    """Predict over REST on a Unix socket."""
    connection = UnixConnection(path)
    connection.request("POST", PREDICT, b'{"instances": [1.0]}')
    document = json.loads(connection.getresponse().read())
    connection.close()
    return document


@pytest.fixture
def served(demo_models: Path) -> dict[str, Path]:
    """The server's only model."""
    return {"half_plus_two": demo_models / "half_plus_two"}


def test_every_socket_speaks_both_protocols(
    start_server: StartServer, served: dict[str, Path], tmp_path: Path, grpc_client: GrpcClient
) -> None:
    paths = [tmp_path / "grpc.sock", tmp_path / "rest.sock"]
    server: ServerProcess = start_server(
        served, f"--grpc_socket_path={paths[0]}", f"--rest_api_socket_path={paths[1]}"
    )
    server.wait_until_available("half_plus_two")
    for path in paths:
        assert predict(path) == {"predictions": [2.5]}
        inputs = {"x": np.array([1.0], np.float32)}
        answer = grpc_client.predict(f"unix:{path}", "half_plus_two", inputs)
        assert answer["outputs"]["y"] == [2.5]
    assert f"Running gRPC ModelServer at UNIX socket {paths[0]} ..." in server.log
    server.terminate()
    assert server.wait() == 0
    assert not any(path.exists() for path in paths), "the files go with the server"


def test_no_port_is_needed_beside_a_socket(
    start_server: StartServer, served: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "s"
    server = start_server(
        served, "--port=0", f"--grpc_socket_path={path}", "--unix_socket_permissions=0600"
    )
    server.wait_until_available("half_plus_two")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert predict(path) == {"predictions": [2.5]}


def test_a_socket_left_behind_is_replaced_and_one_in_use_is_not(
    start_server: StartServer, served: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "s"
    first = start_server(served, f"--grpc_socket_path={path}")
    first.wait_until_available("half_plus_two")
    second = start_server(served, f"--grpc_socket_path={path}")
    assert second.wait() == 255
    assert f"cannot listen on unix:{path}: another server listens there" in second.log
    assert predict(path) == {"predictions": [2.5]}, "the file of the first is still there"
    first.kill()
    assert path.exists(), "nobody was left to remove it"
    third = start_server(served, f"--grpc_socket_path={path}")
    third.wait_until_available("half_plus_two")
    assert predict(path) == {"predictions": [2.5]}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("occupied", "there is a file that is no socket"),
        ("missing/s", "No such file or directory"),
        ("x" * 120, "must be shorter than"),
    ],
)
def test_a_path_that_cannot_be_used_ends_the_start(
    path: str, message: str, start_server: StartServer, served: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "occupied").write_text("precious")
    server = start_server(served, f"--grpc_socket_path={tmp_path / path}")
    assert server.wait() == 255
    assert message in server.log
    assert (tmp_path / "occupied").read_text() == "precious"
