"""One port for all protocols: REST and gRPC, HTTP/1.1 and HTTP/2, with clients of other projects."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest

from support.grpc_client import GrpcClient, RpcError
from support.server_process import ServerProcess

PORTS = ("port", "rest_port")


def curl(*arguments: str) -> str:
    """Run curl and return what it prints."""
    return subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", "30", *arguments],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


@pytest.fixture(params=PORTS)
def port(request: pytest.FixtureRequest, server: ServerProcess) -> int:
    """Each of the server's two ports in turn."""
    return int(getattr(server, request.param))


@pytest.mark.parametrize("protocol", ["--http1.1", "--http2-prior-knowledge"])
class TestCurl:
    def test_predicts_in_row_form(self, protocol: str, port: int) -> None:
        answer = curl(
            *(protocol, "-d", '{"instances": [1.0, 2.0, 5.0]}'),
            f"http://127.0.0.1:{port}/v1/models/half_plus_two:predict",
        )
        assert answer == '{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}'

    def test_predicts_in_columnar_form(self, protocol: str, port: int) -> None:
        answer = curl(
            *(protocol, "-d", '{"inputs": {"x": [1.0, 2.0]}}'),
            f"http://127.0.0.1:{port}/v1/models/half_plus_two_tf2/versions/1:predict",
        )
        assert answer == '{\n    "outputs": [\n        2.5,\n        3.0\n    ]\n}'

    def test_asks_for_the_status(self, protocol: str, port: int) -> None:
        answer = json.loads(curl(protocol, f"http://127.0.0.1:{port}/v1/models/turtle3"))
        assert answer == {
            "model_version_status": [
                {
                    "version": "1",
                    "state": "AVAILABLE",
                    "status": {"error_code": "OK", "error_message": ""},
                }
            ]
        }

    def test_asks_for_the_metadata(self, protocol: str, port: int) -> None:
        answer = json.loads(curl(protocol, f"http://127.0.0.1:{port}/v1/models/turtle3/metadata"))
        assert answer["model_spec"] == {"name": "turtle3", "signature_name": "", "version": "1"}
        signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
        assert signature["inputs"]["image"]["dtype"] == "DT_FLOAT"
        assert [d["size"] for d in signature["inputs"]["image"]["tensor_shape"]["dim"]] == ["360"]

    def test_gets_the_protocol_it_asked_for(self, protocol: str, port: int) -> None:
        version = curl(
            *(protocol, "-o", "/dev/null", "-w", "%{http_version}"),
            f"http://127.0.0.1:{port}/v1/models/turtle3",
        )
        assert version == ("2" if "2" in protocol else "1.1")

    def test_gets_errors_with_their_status(self, protocol: str, port: int) -> None:
        answer = curl(
            *(protocol, "-w", "\n%{http_code}", "-d", '{"instances": [1.0]}'),
            f"http://127.0.0.1:{port}/v1/models/none:predict",
        )
        body, _, status = answer.rpartition("\n")
        assert status == "404"
        assert json.loads(body) == {"error": "Servable not found for request: Latest(none)"}

    def test_sends_a_compressed_body(self, protocol: str, port: int) -> None:
        packed = subprocess.run(
            ["gzip", "-c"], input=b'{"instances": [1.0]}', check=True, capture_output=True
        ).stdout
        answer = subprocess.run(
            [
                *("curl", "--silent", "--max-time", "30", protocol, "--data-binary", "@-"),
                *("-H", "Content-Encoding: gzip"),
                f"http://127.0.0.1:{port}/v1/models/half_plus_two:predict",
            ],
            input=packed,
            check=True,
            capture_output=True,
        ).stdout
        assert json.loads(answer) == {"predictions": [2.5]}


class TestGrpc:
    def test_predicts(self, port: int, grpc_client: GrpcClient) -> None:
        answer = grpc_client.predict(
            port, "half_plus_two", {"x": np.float32([1.0, 2.0, 5.0])}, version=1
        )
        assert answer["version"] == 1
        assert answer["outputs"]["y"].tolist() == [2.5, 3.0, 4.5]

    def test_asks_for_the_status(self, port: int, grpc_client: GrpcClient) -> None:
        answer = grpc_client.call("status", port, "turtle5")
        assert answer == {
            "model_version_status": [{"version": "1", "state": "AVAILABLE", "status": {}}]
        }

    def test_asks_for_the_metadata(self, port: int, grpc_client: GrpcClient) -> None:
        signatures = grpc_client.call("metadata", port, "half_plus_two")
        methods = {name: s.get("method_name") for name, s in signatures.items()}
        assert methods["serving_default"] == "tensorflow/serving/predict"
        assert methods["classify_x_to_y"] == "tensorflow/serving/classify"
        assert methods["regress_x_to_y"] == "tensorflow/serving/regress"

    def test_gets_errors_with_their_code(self, port: int, grpc_client: GrpcClient) -> None:
        with pytest.raises(RpcError) as error:
            grpc_client.predict(port, "none", {"x": [1.0]})
        assert error.value.code == "NOT_FOUND"
        assert error.value.details == "Servable not found for request: Latest(none)"

    def test_answers_only_the_outputs_asked_for(self, port: int, grpc_client: GrpcClient) -> None:
        inputs = {
            "numbers": np.float32([1.0]),
            "counts": np.int32([2]),
            "words": np.array([["a", "b"]], object),
        }
        answer = grpc_client.predict(port, "multiple", inputs, output_filter=("twice",))
        assert {name: y.tolist() for name, y in answer["outputs"].items()} == {"twice": [4]}


def test_both_protocols_give_the_turtle_the_same_answer(
    server: ServerProcess, grpc_client: GrpcClient, demo_models: object
) -> None:
    image = [i / 360 for i in range(360)]
    over_rest = server.predict("turtle3", {"instances": image}).json()["predictions"]
    over_grpc = grpc_client.predict(server.port, "turtle3", {"image": np.float32(image)})
    assert over_rest == pytest.approx(over_grpc["outputs"]["probabilities"].tolist(), rel=1e-6)
    assert sum(over_rest) == pytest.approx(1, abs=1e-6)
    assert server.predict("turtle5", {"instances": image}).json()["predictions"] != over_rest
