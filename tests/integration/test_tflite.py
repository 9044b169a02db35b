"""TensorFlow Lite models under a running server: the kind `tflite`, and `--prefer_tflite_model`."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import beside_tensorflow, models
from support.grpc_client import GrpcClient, RpcError
from support.server_process import ServerProcess, StartServer
from support.tflite_models import entry, write_config

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 10
ROWS = [[1.0, 2.0, 3.0, 4.0], [0.5, 0.0, -1.0, 2.0], [0.0, 0.0, 0.0, 0.0]]
SERVED = ("linear", "one_row", "strings", "where", "loop", "same", "int8", "alone")
BATCHED = "batching { max_batch_size { value: 8 } batch_timeout_micros { value: 20000 } }"
OPTIONS = 'options { key: "interpreters" value: "2" } options { key: "threads" value: "2" }'


def softmax(rows: Any) -> Any:
    raised = np.exp(rows - rows.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def server(
    tflite_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("tflite")
    alone = directory / "alone" / "1"
    alone.mkdir(parents=True)
    shutil.copy(tflite_models / "one_row/1/model.tflite", alone / "any_name.tflite")
    entries = [entry(name, tflite_models / name) for name in SERVED if name != "alone"]
    config = write_config(
        directory / "models.config",
        *entries,
        entry("alone", alone.parent, OPTIONS),
        entry("batched", tflite_models / "linear", BATCHED),
    )
    flags = [config, "--max_num_load_retries=0", "--num_tflite_pools=2"]
    with ServerProcess(flags, directory=directory) as process:
        process.wait_until_available(*SERVED, "batched")
        yield process
        assert process.is_running, process.log


def test_signatures_come_from_the_model(server: ServerProcess) -> None:
    document = server.get("/v1/models/linear/metadata").json()
    signatures = document["metadata"]["signature_def"]["signature_def"]
    assert sorted(signatures) == ["add", "serving_default"]
    default = signatures["serving_default"]
    assert default["method_name"] == "tensorflow/serving/predict"
    assert default["inputs"]["x"]["dtype"] == "DT_FLOAT"
    sizes = [dim["size"] for dim in default["inputs"]["x"]["tensor_shape"]["dim"]]
    assert sizes == ["-1", "4"]
    assert sorted(default["outputs"]) == ["scores", "total"]


def test_rows_are_answered_in_batches_of_any_size(server: ServerProcess) -> None:
    for rows in (1, 3, 3, 2):
        sent = ROWS[:rows]
        answers = server.predict("linear", {"instances": sent}).json()["predictions"]
        expected = softmax(np.array(sent, "float32") @ WEIGHTS)
        np.testing.assert_allclose([each["scores"] for each in answers], expected, rtol=1e-5)
        np.testing.assert_allclose(
            [each["total"] for each in answers], np.sum(sent, axis=1), rtol=1e-6
        )


def test_each_signature_runs_its_graph(server: ServerProcess) -> None:
    document = {"signature_name": "add", "inputs": {"a": [[1, 2]], "b": [[30, 2**40]]}}
    assert server.predict("linear", document).json() == {"outputs": [[31, 2**40 + 2]]}


def test_a_model_for_one_row_takes_several(server: ServerProcess) -> None:
    for name in ("one_row", "alone"):
        document = server.get(f"/v1/models/{name}/metadata").json()
        signature = document["metadata"]["signature_def"]["signature_def"]["serving_default"]
        sizes = [dim["size"] for dim in signature["inputs"]["x"]["tensor_shape"]["dim"]]
        assert sizes == ["-1", "4"]
        rows = np.array(ROWS, "float32")
        expected = np.maximum(rows @ WEIGHTS, 0) + rows.sum(axis=1, keepdims=True)
        answers = server.predict(name, {"instances": ROWS}).json()["predictions"]
        np.testing.assert_allclose(answers, expected, rtol=1e-5)


def test_strings_are_taken_and_returned(server: ServerProcess) -> None:
    keys = ["", "a", "long " * 20_000]
    document = {"inputs": {"keys": keys, "order": [2, 0, 1, 2]}}
    expected = [keys[2], keys[0], keys[1], keys[2]]
    assert server.predict("strings", document).json() == {"outputs": expected}
    raw = {"inputs": {"keys": [{"b64": base64.b64encode(b"\xff\x00").decode()}], "order": [0]}}
    assert server.predict("strings", raw).status == 200


def test_quantized_tensors_stay_as_they_are(server: ServerProcess) -> None:
    document = server.get("/v1/models/int8/metadata").json()
    signature = document["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"]["dtype"] == signature["outputs"]["y"]["dtype"] == "DT_INT8"
    answer = server.predict("int8", {"inputs": [[1, 2, -128, 127], [0, 0, 0, 0]]}).json()
    assert np.array(answer["outputs"]).shape == (2, 3)


def test_inputs_and_constants_can_be_outputs(server: ServerProcess) -> None:
    answer = server.predict("same", {"inputs": ROWS[:2]}).json()["outputs"]
    more = (np.array(ROWS[:2]) + 1).tolist()
    assert answer == {"x": ROWS[:2], "constant": [1.0, 2.0], "more": more, "again": more}


@pytest.mark.parametrize(
    ("sent", "complaint"),
    [
        ({"inputs": [[1.0, 2.0]]}, 'input "x": got shape [1,2], want [?,4]'),
        ({"inputs": [1.0]}, 'input "x": got shape [1], want [?,4]'),
        ({"inputs": [[1, 2.5, "x", 4]]}, ""),
        ({"inputs": {"y": [[1.0]]}}, "Missing named input: x"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    server: ServerProcess, sent: object, complaint: str
) -> None:
    for model in ("linear", "batched"):
        reply = server.predict(model, sent)
        assert reply.status == 400
        assert complaint in reply.error
    assert server.predict("linear", {"instances": ROWS}).status == 200


def test_a_wrong_dtype_is_refused_over_grpc(server: ServerProcess, grpc_client: GrpcClient) -> None:
    with pytest.raises(RpcError, match='input "x": got dtype double, want float') as caught:
        grpc_client.predict(server.port, "linear", {"x": np.zeros((1, 4))})
    assert caught.value.code == "INVALID_ARGUMENT"


def test_requests_are_joined_into_batches(server: ServerProcess) -> None:
    def ask(row: list[float]) -> Any:
        return server.predict("batched", {"instances": [row]}).json()["predictions"][0]["total"]

    rows = [[float(number), 0.0, 1.0, 0.0] for number in range(32)]
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(ask, rows)) == [row[0] + 1 for row in rows]


def test_a_run_is_cancelled_at_its_deadline(server: ServerProcess, grpc_client: GrpcClient) -> None:
    # Hours each: if runs went on, the two interpreters would be taken for good.
    for _ in range(4):
        with pytest.raises(RpcError) as caught:
            grpc_client.predict(server.port, "loop", {"n": np.float32(1e12)}, timeout=0.3)
        assert caught.value.code == "DEADLINE_EXCEEDED"
    assert server.predict("loop", {"inputs": 3.0}).json()["outputs"] >= 3.0


def test_outputs_of_unknown_size_are_refused(server: ServerProcess) -> None:
    reply = server.predict("where", {"inputs": [1.0, -1.0]})
    assert reply.status == 501
    assert "has a shape that depends on values" in reply.error


def test_missing_operators_are_named(tflite_models: Path, start_server: StartServer) -> None:
    config = write_config(
        tflite_models.parent / "flexible.config", entry("flexible", tflite_models / "flexible")
    )
    server = start_server({}, config)
    assert server.wait() != 0
    assert "LiteRT lacks operators of the model: FlexMatrixInverse" in server.log


def test_options_are_checked_at_the_start(tflite_models: Path, start_server: StartServer) -> None:
    options = 'options { key: "threads" value: "0" }'
    config = tflite_models.parent / "options.config"
    server = start_server({}, write_config(config, entry("m", tflite_models / "linear", options)))
    assert server.wait() != 0
    assert 'option "threads": got 0, want 1 to 1024' in server.log


def test_tensorflow_models_are_served_by_litert_if_that_is_preferred(
    tflite_models: Path, tmp_path: Path, start_server: StartServer
) -> None:
    both = tmp_path / "both" / "1"
    shutil.copytree(tflite_models / "saved_model", both)
    shutil.copy(tflite_models / "one_row/1/model.tflite", both)
    lite = tmp_path / "lite" / "1"
    shutil.copytree(tflite_models / "one_row/1", lite)
    rows = np.array(ROWS, "float32")
    expected = np.maximum(rows @ WEIGHTS, 0) + rows.sum(axis=1, keepdims=True)

    served = {"both": both.parent, "lite": lite.parent}
    server = start_server(served, "--prefer_tflite_model", "--num_tflite_interpreters_per_pool=250")
    server.wait_until_available(*served)
    for name in served:
        # Names and shapes of the tensors, as TensorFlow Serving has them.
        document = server.get(f"/v1/models/{name}/metadata").json()
        signature = document["metadata"]["signature_def"]["signature_def"]["serving_default"]
        (spec,) = signature["inputs"].values()
        assert (list(signature["inputs"]), spec["name"]) == (
            ["serving_default_x"],
            "serving_default_x:0",
        )
        assert [dim["size"] for dim in spec["tensor_shape"]["dim"]] == ["1", "4"]
        # More than two rows, so the batch is split into two runs.
        answers = server.predict(name, {"instances": ROWS}).json()["predictions"]
        np.testing.assert_allclose(answers, expected, rtol=1e-5)
    server.kill()

    server = start_server({"both": both.parent})
    server.wait_until_available("both")
    answer = server.predict("both", {"instances": ROWS}).json()["predictions"][0]
    assert sorted(answer) == ["scores", "total"]


def test_the_guide_leads_from_a_conversion_to_an_answer(
    tmp_path: Path, start_server: StartServer
) -> None:
    guide = (models.ROOT / "docs/guides/tflite.md").read_text()
    (program,) = re.findall(r"(?ms)^```python\n# convert.py\n(.*?)^```$", guide)
    (tmp_path / "convert.py").write_text(program)
    (block,) = re.findall(r"(?ms)^```console\n(.*?)^```$", guide)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in re.findall(r"(?m)^\$ (.*)$", block):
        environment = {**os.environ, "PATH": path}
        subprocess.run(command, shell=True, cwd=tmp_path, env=environment, check=True)
    (config,) = re.findall(r"(?ms)^```\n(# models.config\n.*?)^```$", guide)
    file = tmp_path / "models.config"
    file.write_text(config.replace("/…", str(tmp_path)))
    server = start_server({}, f"--model_config_file={file}")
    server.wait_until_available("doubling")
    ((sent, model),) = re.findall(r"curl -d '(.*)' localhost:8501/v1/models/(\w+):predict", guide)
    (answer,) = re.findall(r"(?ms)^```json\n(.*?)^```$", guide)
    assert server.predict(model, json.loads(sent)).json() == json.loads(answer)


@pytest.mark.parametrize("first", ["tensorflow", "litert"])
def test_litert_works_beside_tensorflow(tflite_models: Path, first: str) -> None:
    paths = [str(tflite_models / "saved_model"), str(tflite_models / "linear/1/model.tflite")]
    program = [sys.executable, beside_tensorflow.__file__, first, *paths]
    done = subprocess.run(program, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
