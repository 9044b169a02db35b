"""TensorFlow Lite models: examples, batching, warm-up, processes, memory, and runs that are too long."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris

from servable._server.config.models import ModelConfig
from servable.lifecycle import ServableId
from servable.platforms import PlatformContext, VersionDirectory, find_platforms
from support.grpc_client import GrpcClient, RpcError
from support.server_process import COMMAND, ServerProcess, StartServer
from support.tflite_models import config_list, entry, hostile, write_config

ROW = {"instances": [[1.0, 2.0, 3.0, 4.0]]}
SIZES = "max_batch_size { value: 8 } allowed_batch_sizes: 4 allowed_batch_sizes: 8"
BATCHING = {
    "greedy": "batching { max_batch_size { value: 8 } }",
    "adaptive": "batching_policy { latency_objective_millis: 100 }",
    "sizes": f"batching {{ {SIZES} batch_timeout_micros {{ value: 20000 }} }}",
}
ELSEWHERE = {"process": "process: true", "trial": "trial_load: true"}


@pytest.fixture(scope="module")
def server(
    tflite_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("tflite-life")
    options = {**BATCHING, **ELSEWHERE}
    names = ("iris", "diabetes", "four_rows")
    entries = [
        *(entry(name, tflite_models / name) for name in names),
        *(entry(name, tflite_models / "linear", text) for name, text in options.items()),
        entry("strings", tflite_models / "strings", "process: true"),
        entry("loop", tflite_models / "loop", "process: true"),
        entry("flexible", tflite_models / "flexible", "trial_load: true"),
    ]
    flags = [write_config(directory / "models.config", *entries), "--max_num_load_retries=0"]
    with ServerProcess(flags, directory=directory) as process:
        process.wait_until_available(*names, *options, "strings", "loop")
        yield process
        assert process.is_running, process.log


def post(server: ServerProcess, call: str, document: object) -> Any:
    reply = server.request("POST", f"/v1/models/{call}", json.dumps(document).encode())
    assert reply.status == 200, reply.body
    return reply.json()


def test_a_classifier_answers_examples_with_the_labels_of_its_metadata(
    server: ServerProcess, grpc_client: GrpcClient
) -> None:
    data = load_iris()
    rows = data.data[::10].astype("float32")
    examples = [{"x": row.tolist()} for row in rows]
    results = post(server, "iris:classify", {"examples": examples})["results"]
    wanted = grpc_client.predict(server.port, "iris", {"x": rows})["outputs"]["probabilities"]
    assert [[label for label, _ in each] for each in results] == [list(data.target_names)] * len(
        rows
    )
    scores = np.array([[score for _, score in each] for each in results])
    np.testing.assert_allclose(scores, wanted, rtol=1e-5)
    assert (scores.argmax(1) == data.target[::10]).mean() > 0.9


def test_a_model_with_one_value_a_row_answers_regressions(server: ServerProcess) -> None:
    rows, values = load_diabetes(return_X_y=True)
    examples = [{"bmi": row[2], "s5": row[8]} for row in rows]
    results = post(server, "diabetes:regress", {"examples": examples})["results"]
    assert np.corrcoef(results, values)[0, 1] > 0.6
    columns = {"bmi": rows[:, 2].tolist(), "s5": rows[:, 8].tolist()}
    np.testing.assert_allclose(
        results, server.predict("diabetes", {"inputs": columns}).json()["outputs"], rtol=1e-5
    )
    refused = server.request("POST", "/v1/models/diabetes:regress", b'{"examples": [{"bmi": 0.1}]}')
    assert refused.status == 400
    assert "s5" in refused.error


def test_a_signature_that_is_neither_is_only_predicted(server: ServerProcess) -> None:
    document = server.get("/v1/models/greedy/metadata").json()
    signatures = document["metadata"]["signature_def"]["signature_def"]
    assert sorted(signatures) == ["add", "serving_default"]


@pytest.mark.parametrize("name", [*BATCHING, *ELSEWHERE])
def test_answers_are_the_same_in_batches_and_processes(server: ServerProcess, name: str) -> None:
    def ask(number: int) -> Any:
        row = [float(number), 0.0, 1.0, 0.0]
        return server.predict(name, {"instances": [row]}).json()["predictions"][0]["total"]

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(48))) == [number + 1.0 for number in range(48)]
    refused = server.predict(name, {"instances": [[1.0, 2.0]]})
    assert (refused.status, refused.error) == (400, 'input "x": got shape [1,2], want [?,4]')


def test_batches_have_the_allowed_sizes(server: ServerProcess) -> None:
    server.predict("sizes", ROW)
    (version,) = server.get("/v1/models/sizes/batching").json()["versions"]
    (queue,) = version["queues"]
    assert {each["size"] for each in queue["sizes"]} <= {4, 8}
    assert queue["padding_rows"] > 0


def test_metadata_over_each_protocol_agrees(server: ServerProcess, grpc_client: GrpcClient) -> None:
    document = server.get("/v2/models/iris").json()
    assert document["platform"] == "tensorflow_lite"
    assert document["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    answer = server.request(
        "POST",
        "/v2/models/strings/infer",
        json.dumps(
            {
                "inputs": [
                    {"name": "keys", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]},
                    {"name": "order", "shape": [3], "datatype": "INT32", "data": [1, 1, 0]},
                ]
            }
        ).encode(),
    ).json()
    assert answer["outputs"][0]["data"] == ["b", "b", "a"]
    over_grpc = grpc_client.call("metadata", server.port, "iris")
    over_rest = server.get("/v1/models/iris/metadata").json()["metadata"]["signature_def"]
    assert sorted(over_grpc) == sorted(over_rest["signature_def"])


def test_a_run_in_a_process_is_cancelled_at_its_deadline(
    server: ServerProcess, grpc_client: GrpcClient
) -> None:
    with pytest.raises(RpcError) as caught:
        grpc_client.predict(server.port, "loop", {"n": np.float32(1e12)}, timeout=0.5)
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert server.predict("loop", {"inputs": 3.0}).json()["outputs"] >= 3.0


def test_a_trial_names_the_missing_operators(server: ServerProcess) -> None:
    server.wait_until_state("flexible", 1, "END")
    (version,) = server.get("/v1/models/flexible").json()["model_version_status"]
    assert version["status"]["error_code"] == "UNIMPLEMENTED"
    assert (
        "LiteRT lacks operators of the model: FlexMatrixInverse"
        in version["status"]["error_message"]
    )


def test_a_model_for_several_rows_is_run_with_as_many(
    server: ServerProcess, tflite_models: Path, tmp_path: Path, start_server: StartServer
) -> None:
    rows = {"inputs": [[1.0] * 4] * 8}
    assert server.predict("four_rows", rows).json()["outputs"] == [8.0] * 8
    flags = ["--prefer_tflite_model", "--num_tflite_interpreters_per_pool=2"]
    preferring = start_server({"four_rows": tflite_models / "four_rows"}, *flags)
    preferring.wait_until_available("four_rows")
    assert preferring.predict("four_rows", rows).json()["outputs"] == [4.0] * 8


def test_recorded_requests_warm_a_model_up(
    tflite_models: Path, tmp_path: Path, start_server: StartServer
) -> None:
    model = tmp_path / "iris"
    shutil.copytree(tflite_models / "iris", model)
    bodies = {"predict": ROW, "classify": {"examples": [{"x": [1.0, 2.0, 3.0, 4.0]}]}}
    for name, body in bodies.items():
        (tmp_path / name).write_text(json.dumps(body))
    requests = [f"--request={tmp_path / name}" for name in bodies]
    done = subprocess.run([COMMAND, "warmup", model, *requests], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    config = write_config(tmp_path / "models.config", entry("iris", model))
    server = start_server({}, config)
    server.wait_until_available("iris")
    assert "Number of warmup records read: 2." in server.log


def test_runs_of_one_long_operator_keep_no_caller_and_few_threads(
    tflite_models: Path, tmp_path: Path, grpc_client: GrpcClient
) -> None:
    entries = [entry("product", tflite_models / "product"), entry("iris", tflite_models / "iris")]
    flags = [
        write_config(tmp_path / "models.config", *entries),
        "--num_tflite_pools=2",
        "--rest_api_timeout_in_ms=500",
    ]

    def seconds_of_a_long_run(_: int) -> float:
        start = time.monotonic()
        assert server.predict("product", {"inputs": 6000}).status == 504
        return time.monotonic() - start

    with ServerProcess(flags, directory=tmp_path) as server:
        server.wait_until_available("product", "iris")
        assert server.predict("product", {"inputs": 10}).json() == {"outputs": 1000.0}
        # After a quick run, a long one may be on the thread of its connection, and is answered when it ends.
        assert server.predict("product", {"inputs": 6000}).status in (200, 504)
        with ThreadPoolExecutor(16) as threads:
            assert max(threads.map(seconds_of_a_long_run, range(16))) < 5
        tasks = Path(f"/proc/{server.process.pid}/task")
        before = len(list(tasks.iterdir()))
        with ThreadPoolExecutor(16) as threads:
            assert max(threads.map(seconds_of_a_long_run, range(16))) < 5
        assert len(list(tasks.iterdir())) <= before + 2
        assert server.predict("iris", ROW).status == 200
        end = time.monotonic() + 60
        while server.predict("product", {"inputs": 10}).status != 200:
            assert time.monotonic() < end, "an interpreter is lost"


def resident_megabytes(server: ServerProcess) -> int:
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) // 1024


def test_an_unloaded_model_gives_its_memory_back(
    tflite_models: Path, tmp_path: Path, grpc_client: GrpcClient
) -> None:
    small = entry("iris", tflite_models / "iris")
    wide = entry("wide", tflite_models / "wide")
    flags = [write_config(tmp_path / "models.config", small), "--num_tflite_pools=2"]
    with ServerProcess(flags, directory=tmp_path) as server:
        server.wait_until_available("iris")
        before = resident_megabytes(server)
        grpc_client.call("reload", server.port, config_list(small, wide))
        answer = grpc_client.predict(server.port, "wide", {"x": np.ones((4, 1), np.float32)})
        assert answer["outputs"]["sum"].tolist() == [5e6] * 4
        assert resident_megabytes(server) > before + 80
        grpc_client.call("reload", server.port, config_list(small))
        server.wait_until_state("wide", 1, "END")
        assert resident_megabytes(server) < before + 40


def test_the_estimate_of_memory_has_the_tensors_of_a_run(tflite_models: Path) -> None:
    def estimate(interpreters: int) -> int:
        options = {"interpreters": str(interpreters)}
        model = ModelConfig("m", str(tflite_models / "wide"), "tflite", options=options)
        directory = VersionDirectory(str(tflite_models / "wide/1"), model)
        loader = find_platforms(PlatformContext())["tflite"].make_loader(
            ServableId("m", 1), directory
        )
        return loader.estimate_resources()

    # An operator reads a row of 20 MB, and writes another one.
    assert 80e6 <= estimate(1) < 81e6
    assert 40e6 <= estimate(2) - estimate(1) < 41e6


def test_a_model_without_memory_for_its_tensors_is_refused(
    tflite_models: Path, tmp_path: Path, grpc_client: GrpcClient
) -> None:
    small = entry("iris", tflite_models / "iris")
    huge = entry("huge", tflite_models / "huge")
    flags = [write_config(tmp_path / "models.config", small), "--max_num_load_retries=0"]
    with ServerProcess(flags, directory=tmp_path) as server:
        server.wait_until_available("iris")
        limit = 8 << 30  # the input has 14.4 GB
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (limit, limit))
        with pytest.raises(RpcError):
            grpc_client.call("reload", server.port, config_list(small, huge))
        (version,) = server.get("/v1/models/huge").json()["model_version_status"]
        assert "Failed to allocate tensors" in version["status"]["error_message"]
        assert server.predict("iris", ROW).status == 200


@pytest.mark.parametrize("elsewhere", list(ELSEWHERE))
def test_a_file_that_ends_its_process_is_a_failed_version_elsewhere(
    elsewhere: str, tflite_models: Path, tmp_path: Path, start_server: StartServer
) -> None:
    served = tmp_path / "served"
    shutil.copytree(tflite_models / "int8", served)
    version = tmp_path / "2"
    version.mkdir()
    model = version / "model.tflite"
    model.write_bytes(hostile((served / "1/model.tflite").read_bytes()))
    for command in ("check", "inspect"):
        done = subprocess.run([COMMAND, command, model], capture_output=True, text=True)
        assert done.returncode == 1
        complaint = "got a model with which LiteRT crashes (its process was killed by SIGSEGV), want one that it loads"
        assert complaint in done.stdout + done.stderr

    config = write_config(tmp_path / "m.config", entry("m", served, ELSEWHERE[elsewhere]))
    server = start_server({}, config)
    server.wait_until_available("m")
    version.rename(served / "2")
    server.wait_until_state("m", 2, "END")
    (status,) = server.get("/v1/models/m/versions/2").json()["model_version_status"]
    assert "killed by SIGSEGV" in status["status"]["error_message"]
    assert server.predict("m", {"inputs": [[1, 2, 3, 4]]}).status == 200
