"""ONNX models under a running server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from support.grpc_client import GrpcClient, RpcError
from support.metrics_page import monitoring_flag
from support.onnx_models import (
    city_model,
    converted,
    copies,
    diabetes_regressor,
    endless,
    graph_model,
    iris_classifier,
    large,
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


def option(key: str, text: str) -> str:
    return f'options {{ key: "{key}" value: "{text}" }} '


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
    regressor, _ = diabetes_regressor()
    _, city = city_model()
    models = {
        "double": scaled(2),
        "batched": scaled(2),
        "own_threads": large(),
        "shared_threads": large(),
        "plain": large(),
        "diabetes": converted(regressor, np.zeros((1, 3), np.float32)),
        "city": city,
        "shapes": graph_model(
            [
                helper.make_node("Shape", ["any"], ["shape"]),
                helper.make_node("Mul", ["any", "factor"], ["scaled"]),
            ],
            [value("any", TensorProto.FLOAT, None), value("factor", TensorProto.FLOAT, [])],
            [
                value("shape", TensorProto.INT64, None),
                value("scaled", TensorProto.FLOAT, None),
                value("any", TensorProto.FLOAT, None),
            ],
            {"factor": np.array(3, np.float32)},
        ),
        "pairs": graph_model(
            [helper.make_node("Add", ["a", "b"], ["y"])],
            [value("a", TensorProto.FLOAT, ["N"]), value("b", TensorProto.FLOAT, ["M"])],
            [value("y", TensorProto.FLOAT, None)],
        ),
        "copies": copies(ELEMENT_TYPES),
        "endless": endless(),
        "iris": converted(pipeline, rows[:1], zipmap=False),
        "iris_maps": converted(pipeline, rows[:1]),
        "iris_named_maps": converted(named, rows[:1]),
    }
    options = {
        "own_threads": option("intra_op_threads", "3") + option("memory_arena", "false"),
        "shared_threads": option("intra_op_threads", "0") + option("graph_optimization", "basic"),
        "batched": "batching { max_batch_size { value: 4 } batch_timeout_micros { value: 50000 } }",
    }
    config = "".join(
        entry(
            name,
            write_version(directory / name, model).parent,
            f"servable_options {{ {options.get(name, '')} }}",
        )
        for name, model in models.items()
    )
    file = directory / "models.config"
    file.write_text(f"model_config_list {{ {config} }}")
    flags = [
        f"--model_config_file={file}",
        "--max_num_load_retries=0",
        monitoring_flag(directory),
    ]
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


def test_the_option_of_threads_changes_no_answer(
    server: ServerProcess, grpc_client: GrpcClient
) -> None:
    rows = np.random.default_rng(1).standard_normal((64, 256)).astype(np.float32)
    answers = [
        grpc_client.predict(server.port, model, {"x": rows})["outputs"]["y"]
        for model in ("plain", "own_threads", "shared_threads")
    ]
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-5)
    np.testing.assert_allclose(answers[2], answers[0], atol=1e-5)
    names = [
        Path(f"/proc/{server.process.pid}/task/{thread}/comm").read_text().strip()
        for thread in os.listdir(f"/proc/{server.process.pid}/task")
    ]
    assert names.count("onnx-intra-op") == 2, "the calling thread is the third"


def test_requests_share_batches_and_not_their_errors(server: ServerProcess) -> None:
    asked: list[Any] = [[1, 2], [1, 2, 3], [3, 4], [5, 6]]
    with ThreadPoolExecutor(4) as threads:
        replies = [*threads.map(lambda row: server.predict("batched", {"instances": [row]}), asked)]
    assert [reply.status for reply in replies] == [200, 400, 200, 200]
    assert replies[3].json() == {"predictions": [[10.0, 12.0]]}
    (version,) = server.get("/v1/models/batched/batching").json()["versions"]
    assert version["queues"]


def test_inputs_may_have_any_rank_or_be_left_out(
    server: ServerProcess, grpc_client: GrpcClient
) -> None:
    for shape in ([], [3], [2, 1, 4]):
        sent = np.ones(shape, np.float32)
        answer = grpc_client.predict(server.port, "shapes", {"any": sent})["outputs"]
        assert answer["shape"].tolist() == shape
        assert answer["scaled"].tolist() == (3 * sent).tolist()
        assert answer["any"].tolist() == sent.tolist()
        given = {"any": sent, "factor": np.array(5, np.float32)}
        answer = grpc_client.predict(server.port, "shapes", given)["outputs"]
        assert answer["scaled"].tolist() == (5 * sent).tolist()


def test_an_input_that_the_model_returns_is_copied(
    server: ServerProcess, grpc_client: GrpcClient
) -> None:
    sent = np.arange(100_000, dtype=np.float32)
    answer = grpc_client.predict(server.port, "shapes", {"any": sent})["outputs"]
    np.testing.assert_array_equal(answer["any"], sent)


def test_sizes_that_only_the_kernel_can_check_are_the_fault_of_the_client(
    server: ServerProcess, grpc_client: GrpcClient
) -> None:
    sent = {"a": np.ones(2, np.float32), "b": np.ones(3, np.float32)}
    with pytest.raises(RpcError) as raised:
        grpc_client.predict(server.port, "pairs", sent)
    assert raised.value.code == "INVALID_ARGUMENT"
    assert "2 by 3" in raised.value.details
    assert "onnxruntime_src" not in raised.value.details
    assert "2 by 3" not in server.log, "an error of a client is not logged"


def post(server: ServerProcess, call: str, document: object) -> Any:
    body = json.dumps(document).encode()
    reply = server.request("POST", f"/v1/models/{call}", body)
    assert reply.status == 200, reply.body
    return reply.json()


@pytest.mark.parametrize("model", ["iris", "iris_maps"])
def test_a_classifier_answers_examples(
    model: str, server: ServerProcess, iris: tuple[Any, Any]
) -> None:
    pipeline, rows = iris
    ((scores),) = post(server, f"{model}:classify", {"examples": [{"X": rows[0].tolist()}]})[
        "results"
    ]
    assert [label for label, _ in scores] == ["0", "1", "2"]
    wanted = pipeline.predict_proba(rows[:1])[0]
    np.testing.assert_allclose([score for _, score in scores], wanted, atol=1e-5)


def test_a_classifier_of_texts_answers_examples_with_its_labels(server: ServerProcess) -> None:
    pipeline, _ = city_model()
    answer = post(server, "city:classify", {"examples": [{"city": "Oslo"}, {"city": "Rome"}]})
    for scores, city in zip(answer["results"], ("Oslo", "Rome"), strict=True):
        assert [label for label, _ in scores] == ["cold", "warm"]
        wanted = pipeline.predict_proba(np.array([[city]], object))[0]
        np.testing.assert_allclose([score for _, score in scores], wanted, atol=1e-5)


def test_a_regressor_answers_examples(server: ServerProcess) -> None:
    regressor, rows = diabetes_regressor()
    examples = [{"X": row.tolist()} for row in rows[:3]]
    answer = post(server, "diabetes:regress", {"examples": examples})
    np.testing.assert_allclose(answer["results"], regressor.predict(rows[:3]), rtol=1e-4)


def test_the_runtime_is_named_on_the_metrics_page(server: ServerProcess) -> None:
    server.predict("double", {"instances": [[1, 2]]})
    page = server.get("/monitoring/prometheus/metrics").body.decode()
    assert 'runtime="onnxruntime"' in page


def load_error(server: ServerProcess, name: str) -> tuple[str, str]:
    server.wait_until_state(name, 1, "END")
    (version,) = server.get(f"/v1/models/{name}").json()["model_version_status"]
    return version["status"]["error_code"], version["status"]["error_message"]


def test_models_that_cannot_be_served_say_why(tmp_path: Path) -> None:
    x, y = value("x", TensorProto.FLOAT, ["N"]), value("y", TensorProto.FLOAT, ["N"])
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    sequence = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    models = {
        "good": scaled(1),
        "packed": graph_model(
            [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT4)],
            [x],
            [value("y", TensorProto.INT4, ["N"])],
        ),
        "sequence": graph_model(
            [helper.make_node("SplitToSequence", ["x"], ["y"], axis=0)], [x], [sequence]
        ),
        "custom": graph_model(
            [helper.make_node("Fancy", ["x"], ["y"], domain="com.acme")],
            *([x], [y]),
            opsets={"": 21, "com.acme": 1},
        ),
        "late_opset": graph_model(relu, [x], [y], opsets={"": 999}),
        "late_format": graph_model(relu, [x], [y], ir_version=999),
        "external": large(8),
        "truncated": scaled(1),
        "cuda": scaled(1),
    }
    options = {"cuda": f"servable_options {{ {option('providers', 'cuda,cpu')} }}"}
    entries = [
        entry(name, write_version(tmp_path / name, model).parent, options.get(name, ""))
        for name, model in models.items()
    ]
    external = tmp_path / "external/1"
    onnx.save(
        models["external"],
        external / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    (external / "weights.bin").unlink()
    truncated = tmp_path / "truncated/1/model.onnx"
    truncated.write_bytes(truncated.read_bytes()[:-20])
    file = tmp_path / "models.config"
    file.write_text(f"model_config_list {{ {''.join(entries)} }}")
    flags = [f"--model_config_file={file}", "--max_num_load_retries=0"]
    with ServerProcess(flags, directory=tmp_path) as server:
        errors = {name: load_error(server, name) for name in models if name != "good"}
    wanted = {
        "packed": ("UNIMPLEMENTED", 'output "y": tensors of int4 are not supported'),
        "sequence": ("UNIMPLEMENTED", 'output "y": a sequence cannot be returned'),
        "custom": (
            "FAILED_PRECONDITION",
            "com.acme:Fancy(-1) is not a registered function/op; ONNX Runtime",
        ),
        "late_opset": ("FAILED_PRECONDITION", "the model has operator set 999; ONNX Runtime "),
        "late_format": ("FAILED_PRECONDITION", "the model has IR version 999; ONNX Runtime "),
        "external": ("NOT_FOUND", "external data 'weights.bin': No such file or directory"),
        "truncated": ("DATA_LOSS", "Protobuf parsing failed"),
        "cuda": ("FAILED_PRECONDITION", "install onnxruntime-gpu in place of onnxruntime"),
    }
    for name, (code, text) in wanted.items():
        assert errors[name][0] == code, errors[name]
        assert text in errors[name][1]
        assert "onnxruntime_src" not in errors[name][1]


def test_a_file_is_served_and_a_new_version_replaces_it(tmp_path: Path) -> None:
    base_path = tmp_path / "files"
    base_path.mkdir()
    version = write_version(base_path, scaled(2))
    (version / "model.onnx").rename(version / "any_name.onnx")
    flags = [
        str(base_path),
        "--model_name=m",
        "--file_system_poll_wait_seconds=1",
    ]
    with ServerProcess(flags, directory=tmp_path) as server:
        server.wait_until_available("m")
        stop, statuses = threading.Event(), set()

        def ask() -> None:
            while not stop.is_set():
                reply = server.predict("m", {"instances": [[1, 2]]})
                statuses.add((reply.status, str(reply.json().get("predictions"))))

        with ThreadPoolExecutor(4) as threads:
            asking = [threads.submit(ask) for _ in range(4)]
            write_version(base_path, scaled(3), version=2)
            server.wait_until_available("m", version=2)
            server.wait_until_state("m", 1, "END")
            stop.set()
            for each in asking:
                each.result()
        assert statuses <= {(200, "[[2.0, 4.0]]"), (200, "[[3.0, 6.0]]")}
        assert server.predict("m", {"instances": [[1, 2]]}).json() == {"predictions": [[3.0, 6.0]]}


def resident_megabytes(server: ServerProcess) -> int:
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) // 1024


def test_an_unloaded_model_gives_its_memory_back(tmp_path: Path, grpc_client: GrpcClient) -> None:
    small = entry("small", write_version(tmp_path / "small", scaled(1)).parent)
    big = entry("big", write_version(tmp_path / "big", large(1024, 16)).parent)
    file = tmp_path / "models.config"
    file.write_text(f"model_config_list {{ {small} }}")
    with ServerProcess([f"--model_config_file={file}"], directory=tmp_path) as server:
        server.wait_until_available("small")
        before = resident_megabytes(server)
        assert before < 120
        grpc_client.call("reload", server.port, f"model_config_list {{ {small} {big} }}")
        answer = grpc_client.predict(server.port, "big", {"x": np.ones((8, 1024), np.float32)})
        assert answer["outputs"]["y"].shape == (8, 1024)
        loaded = resident_megabytes(server)
        assert loaded > before + 50, "the weights are 64 MB"
        grpc_client.call("reload", server.port, f"model_config_list {{ {small} }}")
        server.wait_until_state("big", 1, "END")
        assert resident_megabytes(server) < before + 20


RUNTIMES = {
    "tensorflow": "import tensorflow as tf; assert tf.constant(1) + 1 == 2",
    "onnxruntime": "import onnxruntime; onnxruntime.InferenceSession(sys.argv[1])",
    "scikit-learn": "import sklearn.linear_model",
    "hmac": "import hmac; hmac.new(b'k', b'm', 'sha256').hexdigest()",
    "ours": (
        "from servable.platforms import PlatformContext, find_platforms; "
        "assert find_platforms(PlatformContext())['onnx'].describe(sys.argv[1])"
    ),
}


@pytest.mark.parametrize(
    "order",
    [
        ["ours", "tensorflow", "onnxruntime", "scikit-learn", "hmac", "ours"],
        ["tensorflow", "ours", "hmac", "onnxruntime", "scikit-learn"],
        ["onnxruntime", "ours", "scikit-learn", "hmac", "tensorflow", "ours"],
    ],
    ids=" ".join,
)
def test_the_runtime_works_beside_others_in_any_order(order: list[str], tmp_path: Path) -> None:
    onnx.save(scaled(2), tmp_path / "double.onnx")
    code = "\n".join(["import sys", *(RUNTIMES[name] for name in order)])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "double.onnx")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
