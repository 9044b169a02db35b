"""API keys over REST, gRPC and the administration API; their scopes; key rotation."""

from __future__ import annotations

import hashlib
import http.client
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.grpc_client import GrpcClient, RpcError
from support.server_process import Reply, ServerProcess, StartServer, free_port

APP, OPS, NEXT = "app-key-0123456789", "ops-key-0123456789", "next-key-0123456789"
MODEL = "/v1/models/half_plus_two"
INPUT = {"x": np.array([1.0], np.float32)}


class Guarded:
    """A server that requires keys."""

    def __init__(self, start: StartServer, demo_models: Path, directory: Path) -> None:
        self.admin_port = free_port()
        self.keys = directory / "keys"
        digest = hashlib.sha256(OPS.encode()).hexdigest()
        self.keys.write_text(f"app:predict:{APP}\nops:admin:sha256:{digest}\n")
        self.server: ServerProcess = start(
            {"half_plus_two": demo_models / "half_plus_two"},
            f"--api_keys_file={self.keys}",
            f"--admin_api_port={self.admin_port}",
            "--credentials_poll_wait_seconds=0.05",
            "--paths_without_api_key=/v1/models/open",
            "--rest_api_enable_cors_support",
        )
        until(lambda: b"AVAILABLE" in self.get(MODEL, APP).body)

    def get(self, path: str, key: str = "", *, port: int | None = None) -> Reply:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            return self.server.request("GET", path, headers=headers, port=port)
        except ConnectionRefusedError:
            assert self.server.is_running, self.server.log
            return Reply(0, {}, b"")


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def guarded(start_server: StartServer, demo_models: Path, tmp_path: Path) -> Guarded:
    """The server."""
    return Guarded(start_server, demo_models, tmp_path)


def test_rest_asks_for_a_key(guarded: Guarded) -> None:
    refused = guarded.get(MODEL)
    assert (refused.status, refused.headers["www-authenticate"]) == (401, 'Bearer realm="servable"')
    assert "an API key is needed" in refused.error
    wrong = guarded.get(MODEL, "wrong-key-0123456789")
    assert (wrong.status, wrong.error) == (401, "the API key is not known")
    for key in (APP, OPS):
        assert guarded.get(MODEL, key).status == 200
    body = b'{"instances": [1.0]}'
    for headers in ({"x-api-key": APP}, {"Authorization": f"bearer {APP}"}):
        reply = guarded.server.request("POST", f"{MODEL}:predict", body, headers)
        assert reply.json() == {"predictions": [2.5]}
    # No other spelling of a path bypasses the check, and no answer reveals the names of models.
    for path in (MODEL.upper(), "/v1/models/none", "/", "/healthz/../v1/models/half_plus_two"):
        assert guarded.get(path).status == 401, path


def test_the_page_of_a_models_batches_needs_a_key_of_any_scope(guarded: Guarded) -> None:
    path = f"{MODEL}/batching"
    assert [guarded.get(path, key).status for key in ("", "wrong-key-0123456789")] == [401, 401]
    assert guarded.get("/v1/models/open/batching").status == 401, "only /v1/models/open is open"
    for key in (APP, OPS):
        reply = guarded.get(path, key)
        assert (reply.status, reply.json()["model_name"]) == (200, "half_plus_two")


def test_probes_and_preflights_need_no_key(guarded: Guarded) -> None:
    for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/v1/models/open"):
        assert guarded.get(path).status != 401, path
    origin = {"Origin": "http://example.org", "Access-Control-Request-Headers": "authorization"}
    preflight = guarded.server.request("OPTIONS", f"{MODEL}:predict", headers=origin)
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-headers"] == (
        "Content-Type, Authorization, X-API-Key"
    )


@pytest.mark.parametrize(
    ("flags", "allowed"),
    [
        ((), "Content-Type"),
        (("--rest_api_cors_allowed_headers=authorization,X-Trace",), "authorization, X-Trace"),
    ],
)
def test_pages_may_send_the_headers_of_the_flag(
    start_server: StartServer, tmp_path: Path, flags: tuple[str, ...], allowed: str
) -> None:
    server = start_server({"m": tmp_path}, "--rest_api_enable_cors_support", *flags)
    server.wait_until_answers()
    origin = {"Origin": "https://app.example", "Access-Control-Request-Headers": "authorization"}
    for path in (f"{MODEL}:predict", "/v2/models/m/infer", "/v1/models/m/metadata"):
        preflight = server.request("OPTIONS", path, headers=origin)
        assert preflight.status == 200
        assert preflight.headers["access-control-allow-headers"] == allowed
    assert server.get(MODEL).headers["access-control-allow-headers"] == allowed


def test_pages_can_use_keys_with_the_headers_that_they_are_allowed(guarded: Guarded) -> None:
    origin = {"Origin": "https://app.example", "Authorization": f"Bearer {APP}"}
    reply = guarded.server.request("GET", MODEL, headers=origin)
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, "*")
    refused = guarded.server.request("GET", MODEL, headers={"Origin": "https://app.example"})
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, "*")


def test_a_body_that_is_not_allowed_is_not_read(guarded: Guarded) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", guarded.server.rest_port, timeout=20)
    connection.putrequest("POST", f"{MODEL}:predict")
    connection.putheader("Content-Length", "2000000000")
    connection.endheaders()
    assert connection.getresponse().status == 401
    connection.close()


def test_the_model_repository_is_administration(guarded: Guarded, grpc_client: GrpcClient) -> None:
    for path in ("index", "models/half_plus_two/load", "models/half_plus_two/unload"):
        target = f"/v2/repository/{path}"
        refused = guarded.server.request("POST", target, headers={"x-api-key": APP})
        assert refused.status == 403, path
        assert "the scope predict; this needs admin" in refused.error
    index = guarded.server.request("POST", "/v2/repository/index", headers={"x-api-key": OPS})
    assert [model["state"] for model in index.json()] == ["READY"]
    service = "/inference.GRPCInferenceService"
    for method in ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"):
        call = ("call_raw", guarded.server.port, method, b"")
        with pytest.raises(RpcError, match="PERMISSION_DENIED"):
            grpc_client.call(*call, service=service, metadata=(("x-api-key", APP),))
    metadata = (("x-api-key", OPS),)
    call = ("call_raw", guarded.server.port, "RepositoryIndex", b"")
    assert b"READY" in grpc_client.call(*call, service=service, metadata=metadata)


def test_grpc_asks_for_a_key(guarded: Guarded, grpc_client: GrpcClient) -> None:
    def predict(*metadata: tuple[str, str], values: int = 1) -> object:
        inputs = {"x": np.ones(values, np.float32)}
        port = guarded.server.port
        return grpc_client.predict(port, "half_plus_two", inputs, metadata=metadata)["version"]

    assert predict(("authorization", f"Bearer {APP}"))
    assert predict(("x-api-key", OPS))
    # The answer arrives while the large message is still being sent.
    for values in (1, 5_000_000):
        with pytest.raises(RpcError, match="UNAUTHENTICATED: an API key is needed"):
            predict(values=values)
        with pytest.raises(RpcError, match="UNAUTHENTICATED: the API key is not known"):
            predict(("authorization", "Bearer wrong"), values=values)


def test_a_reload_takes_the_scope_of_administration(
    guarded: Guarded, grpc_client: GrpcClient
) -> None:
    def reload(key: str) -> object:
        return grpc_client.call(
            "reload",
            guarded.server.port,
            "model_config_list {}",
            metadata=(("x-api-key", key),),
        )

    with pytest.raises(
        RpcError,
        match="PERMISSION_DENIED: the API key of app has the scope predict; this needs admin",
    ):
        reload(APP)
    assert guarded.get(MODEL, APP).status == 200, "nothing was changed"
    reload(OPS)
    assert b"AVAILABLE" not in guarded.get(MODEL, APP).body


def test_the_administration_api_takes_its_scope(guarded: Guarded) -> None:
    def status(key: str) -> int:
        return guarded.get("/v1/admin/models", key, port=guarded.admin_port).status

    until(lambda: status(OPS) == 200)
    assert [status(key) for key in ("", "wrong", APP, OPS)] == [401, 401, 403, 200]


def test_keys_are_renewed_and_bad_files_change_nothing(guarded: Guarded) -> None:
    guarded.keys.write_text(f"app:predict:{NEXT}\n")
    until(lambda: guarded.get(MODEL, NEXT).status == 200)
    assert guarded.get(MODEL, APP).status == 401
    guarded.keys.write_text("")
    until(lambda: "cannot be used; the old ones stay" in guarded.server.log)
    assert guarded.get(MODEL).status == 401
    assert guarded.get(MODEL, NEXT).status == 200
    assert NEXT not in guarded.server.log


def test_a_file_that_cannot_be_used_ends_the_start(
    start_server: StartServer, demo_models: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("app:predict:short\n")
    server = start_server({"m": demo_models / "half_plus_two"}, f"--api_keys_file={keys}")
    assert server.wait() == 255
    assert f"{keys}, line 1: the key of app has fewer than 16 characters" in server.log
