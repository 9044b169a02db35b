"""The standard services of gRPC, called with grpcio: health and reflection; and the HTTP health checks."""

from __future__ import annotations

import re
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from support.grpc_definitions import Definitions
from support.models import ROOT, add_version
from support.server_process import ServerProcess, StartServer

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
HEALTH = "--enable_grpc_healthcheck_service"
DEFINITIONS = Definitions.of_this_build()
REFLECTION = "grpc.reflection.{}.ServerReflection"


class Client:
    """One channel, and the calls that the tests make."""

    def __init__(self, port: int) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    def check(self, name: str) -> int:
        request = DEFINITIONS.message("grpc.health.v1.HealthCheckRequest")(service=name)
        call = DEFINITIONS.call(self.channel, "grpc.health.v1.Health.Check")
        return int(call(request, timeout=20).status)

    def listed(self) -> dict[str, int]:
        request = DEFINITIONS.message("grpc.health.v1.HealthListRequest")()
        call = DEFINITIONS.call(self.channel, "grpc.health.v1.Health.List")
        answer = call(request, timeout=20)
        return {name: int(entry.status) for name, entry in answer.statuses.items()}

    def watch(self, name: str, timeout: float = 30) -> Any:
        request = DEFINITIONS.message("grpc.health.v1.HealthCheckRequest")(service=name)
        call = DEFINITIONS.call(self.channel, "grpc.health.v1.Health.Watch")
        return call(request, timeout=timeout)

    def reflect(self, version: str, **question: Any) -> Any:
        [answer] = self.reflect_all(version, question)
        return answer

    def reflect_all(self, version: str, *questions: dict[str, Any]) -> list[Any]:
        request = DEFINITIONS.message(f"grpc.reflection.{version}.ServerReflectionRequest")
        call = DEFINITIONS.call(self.channel, f"{REFLECTION.format(version)}.ServerReflectionInfo")
        return list(call((request(**question) for question in questions), timeout=20))


@pytest.fixture
def connect() -> Iterator[Any]:
    """Clients that are closed after the test."""
    clients: list[Client] = []

    def make(server: ServerProcess) -> Client:
        clients.append(Client(server.port))
        return clients[-1]

    yield make
    for client in clients:
        client.channel.close()


class TestHealth:
    def test_follows_the_models_and_ends_when_the_server_drains(
        self,
        start_server: StartServer,
        connect: Any,
        tmp_path: Path,
        half_plus_two_version: Path,
    ) -> None:
        base_path = tmp_path / "late"
        base_path.mkdir()
        server = start_server({"late": base_path}, HEALTH)
        server.wait_until_answers()
        client = connect(server)
        overall, model, unknown = (client.watch(name) for name in ("", "models/late", "none"))
        assert next(overall).status == NOT_SERVING
        assert next(model).status == NOT_SERVING
        assert next(unknown).status == SERVICE_UNKNOWN
        assert client.check("models/late/versions/1") == NOT_SERVING
        assert server.get("/healthz").status == 200
        waiting = server.get("/readyz")
        assert waiting.status == 503
        assert b"Model late is not available yet" in waiting.body

        add_version(base_path, 1, half_plus_two_version, offset=2.0)
        assert next(model).status == SERVING
        assert next(overall).status == SERVING
        names = ("PredictionService", "tensorflow.serving.ModelService", "models/late/versions/1")
        assert [client.check(name) for name in names] == [SERVING] * 3
        assert client.listed()["models/late"] == SERVING
        assert server.get("/readyz").body == b"ok\n"

        server.terminate()
        assert next(overall).status == NOT_SERVING
        with pytest.raises(grpc.RpcError) as ended:
            next(overall)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.wait() == 0

    def test_an_unknown_name_is_not_found(
        self, start_server: StartServer, connect: Any, demo_models: Path
    ) -> None:
        server = start_server({"half_plus_two": demo_models / "half_plus_two"}, HEALTH)
        server.wait_until_available("half_plus_two")
        client = connect(server)
        for name in ("none", "models/none", "models/half_plus_two/versions/x", "half_plus_two"):
            with pytest.raises(grpc.RpcError) as refused:
                client.check(name)
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND, name
        assert client.check("models/half_plus_two/versions/9") == NOT_SERVING

    def test_a_watch_ends_at_its_deadline_and_leaves_no_stream_behind(
        self, start_server: StartServer, connect: Any, demo_models: Path
    ) -> None:
        server = start_server({"half_plus_two": demo_models / "half_plus_two"}, HEALTH)
        server.wait_until_available("half_plus_two")
        client = connect(server)
        watch = client.watch("", timeout=0.3)
        assert next(watch).status == SERVING
        with pytest.raises(grpc.RpcError) as ended:
            next(watch)
        assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        # More than the limit of open calls, one after another.
        for _ in range(1100):
            watch = client.watch("")
            assert next(watch).status == SERVING
            watch.cancel()

    def test_is_not_there_unless_asked_for(self, server: ServerProcess, connect: Any) -> None:
        with pytest.raises(grpc.RpcError) as refused:
            connect(server).check("")
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert refused.value.details() == ""


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
class TestReflection:
    def test_lists_what_is_served(self, version: str, server: ServerProcess, connect: Any) -> None:
        answer = connect(server).reflect(version, list_services="")
        names = {service.name for service in answer.list_services_response.service}
        assert names >= {
            "tensorflow.serving.PredictionService",
            "tensorflow.serving.ModelService",
            REFLECTION.format("v1"),
            REFLECTION.format("v1alpha"),
        }
        assert "grpc.health.v1.Health" not in names

    def test_is_enough_to_predict(self, version: str, server: ServerProcess, connect: Any) -> None:
        client = connect(server)
        found, missing = client.reflect_all(
            version,
            {"file_containing_symbol": "tensorflow.serving.PredictionService"},
            {"file_containing_symbol": "tensorflow.serving.None"},
        )
        assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
        learned = Definitions(found.file_descriptor_response.file_descriptor_proto)
        request = learned.message("tensorflow.serving.PredictRequest")()
        request.model_spec.name = "half_plus_two"
        request.inputs["x"].dtype = 1
        request.inputs["x"].tensor_shape.dim.add().size = 2
        request.inputs["x"].float_val.extend([1.0, 5.0])
        predict = learned.call(client.channel, "tensorflow.serving.PredictionService.Predict")
        assert list(predict(request, timeout=20).outputs["y"].float_val) == [2.5, 4.5]


def test_a_method_that_does_not_exist_is_refused_before_its_message_is_there(
    server: ServerProcess, connect: Any
) -> None:
    is_over = threading.Event()

    def messages() -> Iterator[bytes]:
        is_over.wait()
        yield b""

    channel = connect(server).channel
    call = channel.stream_unary("/tensorflow.serving.PredictionService/None")
    try:
        with pytest.raises(grpc.RpcError) as refused:
            call(messages(), timeout=20)
    finally:
        is_over.set()
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    large = channel.unary_unary("/tensorflow.serving.PredictionService/None")
    with pytest.raises(grpc.RpcError) as refused:
        large(bytes(20_000_000), timeout=20)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_reflection_refuses_malformed_requests(server: ServerProcess, connect: Any) -> None:
    call = connect(server).channel.stream_stream(
        f"/{REFLECTION.format('v1')}/ServerReflectionInfo",
    )
    for question, code in (
        (b"\xff" * 3, grpc.StatusCode.INTERNAL),
        (b"\x0a\x80\x80\x08" + bytes(1 << 17), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            list(call(iter([question]), timeout=20))
        assert refused.value.code() is code


def test_the_commands_of_the_guide(server: ServerProcess) -> None:
    guide = (ROOT / "docs/guides/health.md").read_text()
    [commands] = re.findall(r"(?ms)^```sh\n(.*?)^```$", guide)
    for command in commands.splitlines():
        command = command.replace("8501", str(server.rest_port))
        assert subprocess.check_output(shlex.split(command), timeout=30) == b"ok\n"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_over_http(path: str, server: ServerProcess) -> None:
    reply = server.get(path)
    assert (reply.status, reply.body) == (200, b"ok\n")
    assert server.get(path + "?verbose", port=server.port).status == 200
    assert server.request("POST", path, b"").status == 404


def raw_call(port: int, message: bytes, *headers: str, flag: int = 0) -> str:
    """The response headers of a Predict whose frame is encoded by hand."""
    frame = bytes([flag]) + len(message).to_bytes(4, "big") + message
    return subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--http2-prior-knowledge", "--max-time", "30"),
            *("-o", "/dev/null", "-D", "-", "--data-binary", "@-"),
            *("-H", "content-type: application/grpc", "-H", "te: trailers"),
            *(part for header in headers for part in ("-H", header)),
            f"http://127.0.0.1:{port}/tensorflow.serving.PredictionService/Predict",
        ],
        check=True,
        capture_output=True,
        input=frame,
    ).stdout.decode()


class TestCompression:
    def predict_request(self, count: int) -> bytes:
        request = DEFINITIONS.message("tensorflow.serving.PredictRequest")()
        request.model_spec.name = "half_plus_two"
        request.inputs["x"].dtype = 1
        request.inputs["x"].tensor_shape.dim.add().size = count
        request.inputs["x"].float_val.extend([1.0] * count)
        return bytes(request.SerializeToString())

    @pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
    def test_is_understood(
        self, compression: grpc.Compression, server: ServerProcess, connect: Any
    ) -> None:
        call = DEFINITIONS.call(
            connect(server).channel, "tensorflow.serving.PredictionService.Predict"
        )
        request = DEFINITIONS.message("tensorflow.serving.PredictRequest").FromString(
            self.predict_request(10_000)
        )
        answer = call(request, timeout=20, compression=compression)
        assert list(answer.outputs["y"].float_val) == [2.5] * 10_000

    def test_replies_are_compressed_as_the_request_is(self, server: ServerProcess) -> None:
        request = self.predict_request(10_000)
        accepting = "grpc-accept-encoding: identity,gzip"
        assert "grpc-encoding" not in raw_call(server.port, request, accepting)
        assert "grpc-encoding" not in raw_call(server.port, request, "grpc-encoding: gzip")
        both = raw_call(server.port, request, accepting, "grpc-encoding: gzip")
        assert "grpc-encoding: gzip\r\n" in both

    def test_of_an_unknown_kind_is_refused_with_those_that_are_known(
        self, server: ServerProcess
    ) -> None:
        headers = raw_call(server.port, b"x", "grpc-encoding: snappy", flag=1)
        assert "grpc-status: 12\r\n" in headers
        assert "grpc-accept-encoding: identity,deflate,gzip\r\n" in headers

    def test_of_damaged_data_is_an_error(self, server: ServerProcess) -> None:
        assert "grpc-status: 13\r\n" in raw_call(
            server.port, b"no gzip", "grpc-encoding: gzip", flag=1
        )


class TestWaitingCalls:
    """Calls of a Python model whose only worker is busy."""

    MODEL = """
import time
from pathlib import Path
from servable.signature import TensorSpec, serves

@serves(inputs={"x": TensorSpec("float32", [None])}, outputs={"y": TensorSpec("float32", [None])})
def sleep(inputs):
    with (Path(__file__).parent / "begun").open("a") as begun:
        begun.write(f"{inputs['x'][0]:.0f}\\n")
    time.sleep(float(inputs["x"][0]) / 1000)
    return {"y": inputs["x"]}
"""

    @pytest.fixture
    def busy(self, tmp_path: Path, start_server: StartServer) -> Iterator[tuple[Any, Any]]:
        version = tmp_path / "sleep/1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(self.MODEL)
        config = tmp_path / "sleep.config"
        config.write_text(
            f'model_config_list {{ config {{ name: "sleep" base_path: "{tmp_path / "sleep"}" '
            'model_platform: "python" servable_options { python { workers: 1 } } } }'
        )
        server = start_server({}, f"--model_config_file={config}", "--rest_api_timeout_in_ms=400")
        server.wait_until_available("sleep")
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            predict = DEFINITIONS.call(channel, "tensorflow.serving.PredictionService.Predict")

            def call(milliseconds: int, timeout: float = 20) -> Any:
                request = DEFINITIONS.message("tensorflow.serving.PredictRequest")()
                request.model_spec.name = "sleep"
                request.inputs["x"].dtype = 1
                request.inputs["x"].tensor_shape.dim.add().size = 1
                request.inputs["x"].float_val.append(milliseconds)
                return predict.future(request, timeout=timeout)

            yield server, call

    def begun(self, tmp_path: Path) -> list[str]:
        path = tmp_path / "sleep/1/begun"
        return path.read_text().split() if path.exists() else []

    def wait_until_begun(self, tmp_path: Path, what: str) -> None:
        end = time.monotonic() + 20
        while what not in self.begun(tmp_path):
            assert time.monotonic() < end
            time.sleep(0.01)

    def test_are_not_run_once_cancelled_or_too_late(self, busy: Any, tmp_path: Path) -> None:
        server, call = busy
        running = call(1500)
        self.wait_until_begun(tmp_path, "1500")
        cancelled, late, patient = call(1), call(2, timeout=0.3), call(3)
        assert late.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        cancelled.cancel()
        reply = server.predict("sleep", {"instances": [4.0]})
        assert (reply.status, reply.error) == (504, "Timed out waiting for notification")
        assert running.result().outputs["y"].float_val[0] == 1500
        assert patient.result().outputs["y"].float_val[0] == 3
        assert self.begun(tmp_path) == ["1500", "3"]
