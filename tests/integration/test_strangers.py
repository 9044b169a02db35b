"""Untrusted clients can bring neither code nor requests to places that were not named at the start."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.grpc_client import GrpcClient, RpcError
from support.server_process import ServerProcess, free_port

MARK = "WAS_RUN"

Change = Callable[[str, str], str]
"""Requests a model with a base path and a platform, and returns the refusal; empty if it was accepted."""


def write_model(base_path: Path, mark: Path) -> Path:
    """A Python model that writes a file when its code is run."""
    version = base_path / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(
        "from pathlib import Path\n"
        "from servable.signature import TensorSpec, serves\n"
        f"Path({str(mark)!r}).write_text('x')\n"
        "@serves(inputs={'x': TensorSpec('float32', [None])}, outputs={'y': TensorSpec('float32', [None])})\n"
        "def run(inputs):\n    return {'y': inputs['x']}\n"
    )
    return version


def entry(name: str, base_path: object, platform: str = "python") -> str:
    return f'config {{ name: "{name}" base_path: "{base_path}" model_platform: "{platform}" }}'


def wait_for_log(server: ServerProcess, text: str) -> None:
    end = time.monotonic() + 60
    while text not in server.log:
        assert server.is_running, server.log
        assert time.monotonic() < end, server.log
        time.sleep(0.05)


class Web:
    """A web server that counts requests, and answers every path with a given response.

    Attributes:
        asked: The requested paths.
    """

    def __init__(self, answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> None:
        asked = self.asked = list[str]()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                asked.append(self.path)
                answer(self)

            do_HEAD = do_GET  # noqa: N815  # the name is the library's

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def page(*links: str) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    body = "".join(f'<a href="{link}">{link}</a>' for link in links).encode()

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body)

    return answer


def redirect(target: str) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@pytest.fixture
def web() -> Iterator[Callable[..., Web]]:
    """Starts web servers."""
    servers: list[Web] = []

    def start(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Web:
        servers.append(Web(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


class Started:
    """A server with one Python model, and every interface that changes its configuration."""

    def __init__(self, directory: Path, grpc_client: GrpcClient, *flags: str) -> None:
        self.mark = directory / "mark"
        self.own = directory / "own"
        write_model(self.own, directory / "own_mark")
        self.config = directory / "models.config"
        self.write(entry("own", self.own))
        self.admin_port = free_port()
        self.grpc_client = grpc_client
        self.server = ServerProcess(
            [
                f"--model_config_file={self.config}",
                "--model_config_file_poll_wait_seconds=1",
                "--max_num_load_retries=0",
                f"--admin_api_port={self.admin_port}",
                *flags,
            ],
            directory=directory,
            environment={"XDG_CACHE_HOME": str(directory / "cache")},
        )
        try:
            self.server.wait_until_available("own")
        except BaseException:
            self.server.kill()
            raise

    def write(self, *entries: str) -> None:
        self.config.write_text("model_config_list { " + " ".join(entries) + " }")

    def reload(self, base_path: str, platform: str) -> str:
        entries = [entry("own", self.own), entry("m", base_path, platform)]
        try:
            self.grpc_client.call(
                "reload", self.server.port, f"model_config_list {{ {' '.join(entries)} }}"
            )
        except RpcError as error:
            return str(error)
        return ""

    def put(self, base_path: str, platform: str, workers: int = 0) -> str:
        options = {"python": {"workers": workers}}
        body = json.dumps(
            {"base_path": base_path, "model_platform": platform, "servable_options": options}
        )
        reply = self.server.request(
            "PUT", "/v1/admin/models/m", body.encode(), port=self.admin_port
        )
        return "" if reply.status == 200 else f"{reply.json()['code']}: {reply.error}"

    def replace(self, base_path: str, platform: str) -> str:
        """Remove a model of another platform, and add one with its name."""
        problem = self.put(str(self.own), "python")
        assert not problem
        reply = self.server.request("DELETE", "/v1/admin/models/m", port=self.admin_port)
        assert reply.status == 200
        return self.put(base_path, platform)

    def patch(self, base_path: str, platform: str) -> str:
        """Change the base path of a Python model; its platform cannot change."""
        assert not self.put(str(self.own), "python")
        body = json.dumps({"base_path": base_path}).encode()
        reply = self.server.request("PATCH", "/v1/admin/models/m", body, port=self.admin_port)
        self.server.request("DELETE", "/v1/admin/models/m", port=self.admin_port)
        return "" if reply.status == 200 else f"{reply.json()['code']}: {reply.error}"

    def repository(self, base_path: str, platform: str) -> str:
        config = json.dumps({"base_path": base_path, "model_platform": platform})
        body = json.dumps({"parameters": {"config": config}}).encode()
        reply = self.server.request("POST", "/v2/repository/models/m/load", body)
        return "" if reply.status == 200 else f"{reply.status}: {reply.error}"

    def repository_over_grpc(self, base_path: str, platform: str) -> str:
        config = json.dumps({"base_path": base_path, "model_platform": platform}).encode()
        choice = b"\x1a" + bytes([len(config)]) + config
        parameter = b"\n\x06config\x12" + bytes([len(choice)]) + choice
        message = b"\x12\x01m\x1a" + bytes([len(parameter)]) + parameter
        assert max(len(config), len(choice), len(parameter)) < 128, "lengths of one byte"
        try:
            self.grpc_client.call(
                "call_raw",
                self.server.port,
                "RepositoryModelLoad",
                message,
                service="/inference.GRPCInferenceService",
            )
        except RpcError as error:
            return str(error)
        return ""

    @property
    def ways(self) -> dict[str, Change]:
        return {
            "gRPC": self.reload,
            "PUT": self.put,
            "DELETE, then PUT": self.replace,
            "PATCH": self.patch,
            "repository": self.repository,
            "repository over gRPC": self.repository_over_grpc,
        }


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, grpc_client: GrpcClient) -> Iterator[Started]:
    made = Started(tmp_path_factory.mktemp("s"), grpc_client)
    with made.server:
        yield made
        assert made.server.is_running, made.server.log


def test_no_way_of_changing_the_configuration_brings_python_code(
    started: Started, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("e")
    write_model(elsewhere, started.mark)
    for way, change in started.ways.items():
        for base_path in (
            elsewhere,
            f"file://{elsewhere}",
            f"{started.own}/../../{elsewhere.name}",
        ):
            problem = change(str(base_path), "python")
            assert "--allow_python_models" in problem, way
            assert "PERMISSION_DENIED" in problem or "403" in problem, way
    assert not started.mark.exists()
    names = started.server.request("GET", "/v1/admin/models", port=started.admin_port).json()
    assert [model["name"] for model in names["models"]] == ["own"], "nothing has changed"


def test_no_way_of_changing_the_configuration_fetches_from_elsewhere(
    started: Started, web: Callable[..., Web]
) -> None:
    pytest.importorskip("aiohttp")
    attacker = web(page("1/", "model.py"))
    for way, change in started.ways.items():
        for platform in ("tensorflow", "python"):
            problem = change(f"{attacker.url}/x", platform)
            assert "--allowed_remote_stores" in problem, way
    assert attacker.asked == []


def test_python_models_below_the_base_paths_of_the_start_may_change(started: Started) -> None:
    for way in ("gRPC", "PUT", "repository"):
        assert not started.ways[way](str(started.own), "python"), way
        assert started.server.predict("m", {"instances": [1.0]}).json() == {"predictions": [1.0]}
    assert (
        started.server.request("DELETE", "/v1/admin/models/m", port=started.admin_port).status
        == 200
    )


def test_saved_models_on_local_paths_are_reloaded_as_ever(
    started: Started, demo_models: Path
) -> None:
    assert not started.reload(str(demo_models / "half_plus_two"), "tensorflow")
    assert started.server.predict("m", {"instances": [2.0]}).json() == {"predictions": [3.0]}


def test_a_polled_file_that_others_may_write_brings_no_code(
    tmp_path: Path, grpc_client: GrpcClient
) -> None:
    started = Started(tmp_path, grpc_client)
    with started.server as server:
        elsewhere = tmp_path / "elsewhere"
        write_model(elsewhere, started.mark)
        started.config.chmod(0o666)
        started.write(entry("own", started.own), entry("m", elsewhere))
        wait_for_log(server, "is treated like a request")
        wait_for_log(server, "which is no base path of a Python model")
        assert not started.mark.exists()
        assert server.predict("own", {"instances": [1.0]}).status == 200
        started.config.chmod(0o600)
        server.wait_until_available("m")
        assert started.mark.exists(), "whoever started the server may add models to its file"


def test_a_start_with_a_file_that_others_may_write_brings_no_code(tmp_path: Path) -> None:
    config = tmp_path / "models.config"
    write_model(tmp_path / "m", tmp_path / "mark")
    config.write_text(f"model_config_list {{ {entry('m', tmp_path / 'm')} }}")
    config.chmod(0o666)
    with ServerProcess([f"--model_config_file={config}"], directory=tmp_path) as server:
        assert server.wait() == 255
        assert "is treated like a request" in server.log
        assert "chmod go-w" in server.log
    assert not (tmp_path / "mark").exists()


def test_code_that_others_may_write_is_not_loaded_even_where_all_is_allowed(
    tmp_path: Path, grpc_client: GrpcClient
) -> None:
    started = Started(tmp_path, grpc_client, "--allow_python_models")
    with started.server as server:
        private, shared = tmp_path / "private", tmp_path / "shared"
        for base_path in (private, shared):
            write_model(base_path, started.mark)
        (shared / "1/model.py").chmod(0o666)
        for workers in (0, 1):
            assert "may be written by others" in started.put(str(shared), "python", workers)
            assert server.request("DELETE", "/v1/admin/models/m", port=started.admin_port)
        assert not started.mark.exists()
        assert not started.reload(str(private), "python")
        assert started.mark.exists()


def test_python_code_from_a_remote_store_takes_the_flag(
    tmp_path: Path, web: Callable[..., Web]
) -> None:
    pytest.importorskip("aiohttp")
    store = web(page("1/"))
    config = tmp_path / "models.config"
    config.write_text(f"model_config_list {{ {entry('m', f'{store.url}/m')} }}")
    with ServerProcess([f"--model_config_file={config}"], directory=tmp_path) as server:
        assert server.wait() == 255
        assert "Python code in the remote store" in server.log
    assert store.asked == []


def test_too_many_workers_are_refused(started: Started) -> None:
    assert "want 256 at most" in started.put(str(started.own), "python", 1_000_000)


@pytest.mark.parametrize("what", ["start", "reload"])
def test_a_web_server_that_answers_every_path_alike_is_a_clear_error(
    tmp_path: Path, web: Callable[..., Web], grpc_client: GrpcClient, what: str
) -> None:
    pytest.importorskip("aiohttp")
    endless = web(page("1/", "saved_model.pb"))
    base_path = f"{endless.url}/m"
    flags = [f"--model_base_path={base_path}", "--model_name=m", "--max_num_load_retries=0"]
    if what == "reload":
        (tmp_path / "local").mkdir()
        flags = [
            f"--model_base_path={tmp_path / 'local'}",
            f"--allowed_remote_stores={endless.url}",
        ]
    with ServerProcess(
        [*flags, f"--remote_cache_directory={tmp_path / 'cache'}"], directory=tmp_path
    ) as server:
        if what == "reload":
            wait_for_log(server, "Listening on")
            with pytest.raises(RpcError, match="nested more than 16 deep"):
                grpc_client.call(
                    "reload",
                    server.port,
                    f"model_config_list {{ {entry('m', base_path, 'tensorflow')} }}",
                )
        else:
            wait_for_log(server, "nested more than 16 deep")
        assert "RecursionError" not in server.log
    assert len(endless.asked) < 200


def failing(server: ServerProcess, grpc_client: GrpcClient, base_path: str) -> str:
    # A new name, so that the reload waits for it.
    config = f"model_config_list {{ {entry(f'm{time.monotonic_ns()}', base_path, 'tensorflow')} }}"
    with pytest.raises(RpcError) as raised:
        grpc_client.call("reload", server.port, config, timeout=60)
    return str(raised.value)


def test_redirects_and_names_lead_to_no_place_that_was_not_named(
    tmp_path: Path, web: Callable[..., Web], grpc_client: GrpcClient
) -> None:
    pytest.importorskip("aiohttp")
    inside = web(page("1/"))
    outward = web(redirect(f"{inside.url}/secret/"))
    circle = web(redirect("/again/"))
    allowed = ",".join(
        [
            outward.url,
            circle.url,
            f"http://0.0.0.0:{inside.port}",
            f"http://localhost.localdomain:{inside.port}",
        ]
    )
    (tmp_path / "local").mkdir()
    flags = [f"--model_base_path={tmp_path / 'local'}", f"--allowed_remote_stores={allowed}"]
    with ServerProcess(flags, directory=tmp_path) as server:
        wait_for_log(server, "Listening on")
        text = failing(server, grpc_client, f"{outward.url}/m")
        assert "also for redirects" in text
        assert "TooManyRedirects" in failing(server, grpc_client, f"{circle.url}/m")
        for host in ("localhost", "127.0.0.1", "[::ffff:127.0.0.1]", "127.1", "2130706433"):
            text = failing(server, grpc_client, f"http://{host}:{inside.port}/m")
            assert "--allowed_remote_stores" in text, host
    assert inside.asked == []
    assert len(circle.asked) < 30


def test_large_listings_are_bounded(
    tmp_path: Path, web: Callable[..., Web], grpc_client: GrpcClient
) -> None:
    pytest.importorskip("aiohttp")

    def endless(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")
        handler.end_headers()
        handler.close_connection = True
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
        except OSError:
            pass

    many = web(page("1/", *(f"file{number}" for number in range(11_000))))
    without_end = web(endless)
    (tmp_path / "local").mkdir()
    flags = [
        f"--model_base_path={tmp_path / 'local'}",
        f"--allowed_remote_stores={many.url},{without_end.url}",
    ]
    with ServerProcess(flags, directory=tmp_path) as server:
        wait_for_log(server, "Listening on")
        assert "more than 10000" in failing(server, grpc_client, f"{many.url}/m")
        assert "a listing of more than 4 MiB" in failing(
            server, grpc_client, f"{without_end.url}/m"
        )


@pytest.mark.parametrize("what", ["directories", "files"])
def test_a_store_that_always_has_more_is_a_clear_error(
    tmp_path: Path, web: Callable[..., Web], what: str
) -> None:
    pytest.importorskip("s3fs")

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        is_base = "delimiter=%2F" in handler.path or "delimiter=/" in handler.path
        if what == "files" and is_base:
            entries, more = "<CommonPrefixes><Prefix>m/1/</Prefix></CommonPrefixes>", "false"
        else:
            more, entries = (
                "true",
                "".join(
                    f"<Contents><Key>m/1/{number}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                    '<ETag>"x"</ETag><Size>1</Size></Contents>'
                    for number in range(1000)
                ),
            )
        body = (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>{more}</IsTruncated><NextContinuationToken>t</NextContinuationToken>{entries}"
            "</ListBucketResult>"
        ).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/xml")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    store = web(answer)
    environment = {
        "AWS_ENDPOINT_URL": store.url,
        "AWS_ACCESS_KEY_ID": "me",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    flags = ["--model_base_path=s3://bucket/m", "--model_name=m", "--max_num_load_retries=0"]
    with ServerProcess(flags, directory=tmp_path, environment=environment) as server:
        wait_for_log(server, "has more than 10000 entries")
    assert len(store.asked) < 100
