"""ONNX models under a running server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from support.grpc_client import GrpcClient, RpcError
from support.onnx_models import (
    converted,
    copies,
    endless,
    graph_model,
    iris_classifier,
    scaled,
    value,
    write_version,
)
from support.server_process import ServerProcess

ELEMENT_TYPES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "bool": TensorProto.BOOL,
    "string": TensorProto.STRING,
}


def entry(name: str, base_path: Path, options: str = "") -> str:
    return (
        f'config {{ name: "{name}" base_path: "{base_path}" model_platform: "onnx" {options} }}\n'
    )


@pytest.fixture(scope="module")
def iris() -> tuple[Any, Any]:
    return iris_classifier()


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, iris: tuple[Any, Any]
) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("onnx")
    pipeline, rows = iris
    named, _ = iris_classifier(lambda number: ("setosa", "versicolor", "virginica")[number])
    models = {
        "double": scaled(2),
        "copies": copies(ELEMENT_TYPES),
        "endless": endless(),
        "iris": converted(pipeline, rows[:1], zipmap=False),
        "iris_maps": converted(pipeline, rows[:1]),
        "iris_named_maps": converted(named, rows[:1]),
    }
    config = "".join(
        entry(name, write_version(directory / name, model).parent) for name, model in models.items()
    )
    file = directory / "models.config"
    file.write_text(f"model_config_list {{ {config} }}")
    flags = [f"--model_config_file={file}", "--max_num_load_retries=0"]
    with ServerProcess(flags, directory=directory) as process:
        process.wait_until_available(*models)
        yield process
        assert process.is_running, process.log


def test_a_model_answers_over_rest_and_grpc(server: ServerProcess, grpc_client: GrpcClient) -> None:
    reply = server.predict("double", {"instances": [[1, 2], [3, 4]]})
    assert reply.json() == {"predictions": [[2.0, 4.0], [6.0, 8.0]]}
    rows = np.arange(2000, dtype=np.float32).reshape(-1, 2)
    answer = grpc_client.predict(server.port, "double", {"x": rows})
    np.testing.assert_array_equal(answer["outputs"]["y"], 2 * rows)


def test_every_dtype_returns_as_it_was_sent(server: ServerProcess, grpc_client: GrpcClient) -> None:
    inputs: dict[str, Any] = {
        name: np.array([[0, 1], [1, 0], [1, 1]], name) for name in ELEMENT_TYPES if name != "string"
    }
    texts = [[b"", b"\x00\xff"], ["ö".encode(), b"a\x00b"], [b"x" * 5000, b"y"]]
    inputs["string"] = np.array(texts, object)
    answer = grpc_client.predict(server.port, "copies", inputs)["outputs"]
    for name, sent in inputs.items():
        received = answer[f"{name}_out"]
        assert received.tolist() == sent.tolist(), name
        assert name == "string" or received.dtype == sent.dtype


def test_the_signature_is_that_of_the_model(server: ServerProcess) -> None:
    document = server.get("/v1/models/copies/metadata").json()
    signature = document["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    described = {name: tensor["dtype"] for name, tensor in signature["inputs"].items()}
    assert described["float16"] == "DT_HALF"
    assert described["string"] == "DT_STRING"
    sizes = {
        tuple(dim["size"] for dim in tensor["tensor_shape"]["dim"])
        for role in ("inputs", "outputs")
        for tensor in signature[role].values()
    }
    assert sizes == {("-1", "2")}
    assert server.get("/v2/models/copies").json()["platform"] == "onnxruntime_onnx"


def test_a_classifier_answers_as_scikit_learn_does(
    server: ServerProcess, grpc_client: GrpcClient, iris: tuple[Any, Any]
) -> None:
    pipeline, rows = iris
    answer = grpc_client.predict(server.port, "iris", {"X": rows})["outputs"]
    assert answer["label"].tolist() == pipeline.predict(rows).tolist()
    np.testing.assert_allclose(answer["probabilities"], pipeline.predict_proba(rows), atol=1e-5)


@pytest.mark.parametrize("model", ["iris_maps", "iris_named_maps"])
def test_maps_of_probabilities_become_a_matrix(
    model: str, server: ServerProcess, grpc_client: GrpcClient, iris: tuple[Any, Any]
) -> None:
    pipeline, rows = iris
    answer = grpc_client.predict(server.port, model, {"X": rows[::10]})["outputs"]
    wanted = pipeline.predict_proba(rows[::10])
    np.testing.assert_allclose(answer["output_probability"], wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": np.zeros((1, 3), np.float32)}, 'input "x": got shape [1,3], want [?,2]'),
        ({"x": np.zeros(2, np.float32)}, 'input "x": got shape [2], want [?,2]'),
        ({"x": np.zeros((1, 2), np.float64)}, 'input "x": got dtype double, want float'),
        ({"x": np.array([[b"a", b"b"]], object)}, 'input "x": got dtype string, want float'),
    ],
)
def test_a_mismatch_says_what_was_found_and_wanted(
    inputs: dict[str, Any], message: str, server: ServerProcess, grpc_client: GrpcClient
) -> None:
    with pytest.raises(RpcError) as raised:
        grpc_client.predict(server.port, "double", inputs)
    assert (raised.value.code, raised.value.details) == ("INVALID_ARGUMENT", message)


def is_busy(server: ServerProcess) -> bool:
    """Whether the server uses more than a tenth of a CPU."""

    def cpu_ticks() -> int:
        fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    before = cpu_ticks()
    time.sleep(0.5)
    return cpu_ticks() - before >= 5


def test_a_run_is_cancelled_at_its_deadline(server: ServerProcess, grpc_client: GrpcClient) -> None:
    def inputs(times: int) -> dict[str, Any]:
        return {"n": np.array(times, np.int64), "x": np.zeros(1, np.float32)}

    answer = grpc_client.predict(server.port, "endless", inputs(3))
    assert answer["outputs"]["y"].tolist() == [3.0]
    with pytest.raises(RpcError) as raised:
        grpc_client.predict(server.port, "endless", inputs(2**62), timeout=0.5)
    assert raised.value.code == "DEADLINE_EXCEEDED"
    # The run has ended as well, not only the call.
    end = time.monotonic() + 20
    while is_busy(server):
        assert time.monotonic() < end


def load_error(server: ServerProcess, name: str) -> tuple[str, str]:
    server.wait_until_state(name, 1, "END")
    (version,) = server.get(f"/v1/models/{name}").json()["model_version_status"]
    return version["status"]["error_code"], version["status"]["error_message"]


def test_values_that_no_client_can_receive_are_refused_at_load(tmp_path: Path) -> None:
    models = {
        "good": scaled(1),
        "packed": graph_model(
            [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT4)],
            [value("x", TensorProto.FLOAT, ["N"])],
            [value("y", TensorProto.INT4, ["N"])],
        ),
        "sequence": graph_model(
            [helper.make_node("SplitToSequence", ["x"], ["y"], axis=0)],
            [value("x", TensorProto.FLOAT, ["N"])],
            [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
        ),
    }
    config = "".join(
        entry(name, write_version(tmp_path / name, model).parent) for name, model in models.items()
    )
    file = tmp_path / "models.config"
    file.write_text(f"model_config_list {{ {config} }}")
    flags = [f"--model_config_file={file}", "--max_num_load_retries=0"]
    with ServerProcess(flags, directory=tmp_path) as server:
        errors = {name: load_error(server, name) for name in models if name != "good"}
    assert errors == {
        "packed": ("UNIMPLEMENTED", 'output "y": tensors of int4 are not supported'),
        "sequence": (
            "UNIMPLEMENTED",
            'output "y": a sequence cannot be returned; export the model with tensors as outputs',
        ),
    }
