"""Classify, Regress and MultiInference of a model that is not TensorFlow: examples with a feature for each input."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from support.grpc_client import GrpcClient, RpcError
from support.onnx_models import graph_model, value, write_version
from support.server_process import ServerProcess

REPLIED_SPEC = b"\n\x01m\x12\x02\x08\x01\x1a\x0eclassification"
"""The model spec of replies: name, version and signature."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Serves `m`, whose label is 1 where `a` is greater than `b`, and `sum`, which adds them."""
    directory = tmp_path_factory.mktemp("examples")
    inputs = [value(name, TensorProto.FLOAT, ["N"]) for name in "ab"]
    greater = [
        helper.make_node("Greater", ["a", "b"], ["is_greater"]),
        helper.make_node("Cast", ["is_greater"], ["label"], to=TensorProto.INT64),
    ]
    write_version(
        directory / "m", graph_model(greater, inputs, [value("label", TensorProto.INT64, ["N"])])
    )
    add = [helper.make_node("Add", ["a", "b"], ["total"])]
    write_version(
        directory / "sum", graph_model(add, inputs, [value("total", TensorProto.FLOAT, ["N"])])
    )
    entries = " ".join(
        f'config {{ name: "{name}" base_path: "{directory / name}" model_platform: "onnx" }}'
        for name in ("m", "sum")
    )
    config = directory / "models.config"
    config.write_text(f"model_config_list {{ {entries} }}")
    with ServerProcess([f"--model_config_file={config}"], directory=directory) as process:
        process.wait_until_available("m", "sum")
        yield process
        assert process.is_running, process.log


def post(server: ServerProcess, call: str, document: Any) -> Any:
    return server.request("POST", f"/v1/models/{call}", json.dumps(document).encode()).json()


def field(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def example(**features: float) -> bytes:
    def feature(number: float) -> bytes:
        if isinstance(number, int):
            return field(3, field(1, bytes([number])))
        return field(2, field(1, struct.pack("<f", number)))

    entries = (
        field(1, field(1, name.encode()) + field(2, feature(number)))
        for name, number in features.items()
    )
    return field(1, b"".join(entries))


def labels(*texts: str) -> bytes:
    """A `ClassificationResult` with one class for each example, without scores."""
    return b"".join(field(1, field(1, field(1, text.encode()))) for text in texts)


def test_a_context_and_integers_are_taken_and_the_signature_of_the_kind_is_meant(
    server: ServerProcess,
) -> None:
    request = {"context": {"b": 2}, "examples": [{"a": 2.5}, {"a": -1}, {"a": 1, "b": 0.5}]}
    answer = post(server, "m:classify", request)
    assert answer == {"results": [[["1", 0.0]], [["0", 0.0]], [["1", 0.0]]]}
    answer = post(server, "sum:regress", request)
    np.testing.assert_allclose(answer["results"], [4.5, 1.0, 1.5])


def test_grpc_takes_a_context_and_names_the_signature(
    server: ServerProcess, grpc_client: GrpcClient
) -> None:
    examples = field(1, example(a=2.5)) + field(1, example(a=1, b=7.0))
    with_context = field(2, examples + field(2, example(b=2)))
    request = field(1, field(1, b"m")) + field(2, with_context)
    reply = grpc_client.call("call_raw", server.port, "Classify", request)
    assert reply == field(1, labels("1", "0")) + field(2, REPLIED_SPEC)


def test_multi_inference_finds_the_signature_by_the_kind(
    server: ServerProcess, grpc_client: GrpcClient
) -> None:
    task = field(1, field(1, b"m")) + field(2, b"tensorflow/serving/classify")
    request = field(1, task) + field(2, field(1, field(1, example(a=2.5, b=2.0))))
    reply = grpc_client.call("call_raw", server.port, "MultiInference", request)
    assert reply == field(1, field(1, REPLIED_SPEC) + field(2, labels("1")))


def test_faults_of_examples_are_reported_as_tensorflow_does(
    server: ServerProcess, grpc_client: GrpcClient
) -> None:
    place = "Name: <unknown>, Key: a, Index: 1.  "
    for wrong, text in (
        ("x", "Data types don't match. Data type: string but expected type: float"),
        ([1.0, 2.0], "Number of float values != expected.  Values size: 2 but output shape: []"),
    ):
        request = {"examples": [{"a": 1.0, "b": 1.0}, {"a": wrong, "b": 1.0}]}
        assert post(server, "m:classify", request) == {"error": place + text}
    request = field(1, field(1, b"sum")) + field(2, field(1, field(1, example(a=1, b=1))))
    with pytest.raises(RpcError, match="Expected one"):
        grpc_client.call("call_raw", server.port, "Classify", request)
