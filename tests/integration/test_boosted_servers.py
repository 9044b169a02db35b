"""Models of boosted trees have what a server adds to each kind: processes, warm-up, deadlines, descriptions."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from support.boosted_models import Case, assert_same, config_flag, entry, predict, train
from support.grpc_client import GrpcClient, RpcError
from support.server_process import ServerProcess

COMMAND = Path(sys.executable).with_name("servable")
FILES = {"xgboost": "model.ubj", "lightgbm": "model.txt"}
PROCESS = "servable_options { process: true }"
TRIAL = "servable_options { trial_load: true }"


@dataclass(frozen=True)
class Served:
    """Models of a library, in the server and in processes of their own."""

    library: str
    directory: Path
    cases: dict[str, Case]
    server: ServerProcess


@pytest.fixture(scope="module", params=FILES)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    library = request.param
    directory = tmp_path_factory.mktemp(library)
    cases = train(library, directory)
    large = directory / "large/1"
    large.mkdir(parents=True)
    train_large(library, large / FILES[library])
    entries = [entry(name, directory / name, library) for name in ("iris", "named", "large")]
    entries.append(entry("there", directory / "iris", library, PROCESS))
    entries.append(entry("tried", directory / "iris", library, TRIAL))
    with ServerProcess(
        [config_flag(directory / "models.config", *entries)], directory=directory
    ) as server:
        server.wait_until_available("iris", "named", "large", "there", "tried")
        yield Served(library, directory, cases, server)
        assert server.is_running, server.log


def train_large(library: str, file: Path) -> None:
    """A model of some megabytes."""
    random = np.random.default_rng(0)
    x = random.random((4000, 20))
    y = random.random(4000)
    if library == "xgboost":
        import xgboost

        xgboost.train(
            {"max_depth": 14, "min_child_weight": 0, "nthread": 1}, xgboost.DMatrix(x, y), 30
        ).save_model(file)
    else:
        import lightgbm

        params = {"num_leaves": 1500, "min_data_in_leaf": 1, "num_threads": 1, "verbosity": -1}
        lightgbm.train(params, lightgbm.Dataset(x, y), 30).save_model(file)


def test_all_interfaces_describe_the_model_alike(served: Served, grpc_client: GrpcClient) -> None:
    server = served.server
    dtype = {"xgboost": "DT_FLOAT", "lightgbm": "DT_DOUBLE"}[served.library]
    document = server.get("/v1/models/iris/metadata").json()
    over_rest = document["metadata"]["signature_def"]["signature_def"]
    over_grpc = grpc_client.call("metadata", server.port, "iris")
    for found in (over_rest, over_grpc):
        assert found["serving_default"]["inputs"].keys() == {"inputs"}
        assert found["serving_default"]["inputs"]["inputs"]["dtype"] == dtype
        assert found["serving_default"]["outputs"].keys() == {"labels", "probabilities"}
        assert {"contributions", "classification"} <= found.keys()
    document = server.get("/v2/models/iris").json()
    assert document["platform"] == served.library
    (tensor,) = document["inputs"]
    assert (tensor["name"], tensor["shape"]) == ("inputs", [-1, 4])
    assert tensor["datatype"] == {"xgboost": "FP32", "lightgbm": "FP64"}[served.library]
    body = {"inputs": [{**tensor, "shape": [1, 4], "data": [6.7, 3.0, 5.2, 2.3]}]}
    reply = server.request("POST", "/v2/models/iris/infer", json.dumps(body).encode()).json()
    (label,) = (each["data"] for each in reply["outputs"] if each["name"] == "labels")
    assert label == [2]


def test_classify_and_regress_answer_over_grpc(served: Served) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{served.server.port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        case = served.cases["iris"]
        request = classification_pb2.ClassificationRequest()
        request.model_spec.name = "iris"
        for row in case.x[::50]:
            example = request.input.example_list.examples.add()
            example.features.feature["inputs"].float_list.value.extend(row)
        wanted = predict_rows(served, "iris", case.x[::50].astype("float32"))["probabilities"]
        results = stub.Classify(request, timeout=30).result.classifications
        for result, scores in zip(results, wanted, strict=True):
            assert [each.label for each in result.classes] == ["0", "1", "2"]
            assert [each.score for each in result.classes] == scores.astype("float32").tolist()

        case = served.cases["named"]
        regression = regression_pb2.RegressionRequest()
        regression.model_spec.name = "named"
        columns = {name: values[:5].astype("float32") for name, values in case.columns.items()}
        for row in range(5):
            example = regression.input.example_list.examples.add()
            for name, values in columns.items():
                example.features.feature[name].float_list.value.append(values[row])
        found = [each.value for each in stub.Regress(regression, timeout=30).result.regressions]
        rows = np.stack([columns[name] for name in sorted_by_column(case)], 1)
        wanted = predict_rows(served, "named", rows)["predictions"]
        assert found == wanted.astype("float32").tolist()

        both = inference_pb2.MultiInferenceRequest()
        both.input.CopyFrom(regression.input)
        task = both.tasks.add()
        task.model_spec.name, task.model_spec.signature_name = "named", "regression"
        task.method_name = "tensorflow/serving/regress"
        (result,) = stub.MultiInference(both, timeout=30).results
        assert [each.value for each in result.regression_result.regressions] == found


def sorted_by_column(case: Case) -> list[str]:
    """The names of features, in the order of the matrix."""
    return sorted(case.columns, key=lambda name: int(re.findall(r"\d+", name)[0]))


def predict_rows(served: Served, model: str, rows: Any) -> dict[str, Any]:
    """The answer over REST, as arrays."""
    body = json.dumps({"inputs": rows.tolist()}).encode()
    outputs = served.server.predict(model, body).json()["outputs"]
    if isinstance(outputs, list):
        outputs = {"predictions": outputs}
    return {name: np.array(values) for name, values in outputs.items()}


def test_a_name_that_the_model_lacks_is_refused(served: Served, grpc_client: GrpcClient) -> None:
    for model, signature, inputs in (
        ("iris", "", {"input": np.zeros((1, 4), "float32")}),
        ("named", "columns", {"nothing": np.zeros(1, "float32")}),
    ):
        with pytest.raises(RpcError) as raised:
            grpc_client.predict(served.server.port, model, inputs, signature=signature)
        assert raised.value.code == "INVALID_ARGUMENT"
        assert next(iter(inputs)) in raised.value.details
    with pytest.raises(RpcError) as raised:
        grpc_client.predict(
            served.server.port, "iris", {"inputs": np.zeros((1, 4))}, signature="explanations"
        )
    assert "explanations" in raised.value.details
    assert served.server.predict("iris", {"instances": [[1, "a", 2, 3]]}).status == 400


@pytest.mark.parametrize("model", ["there", "tried"])
def test_processes_change_no_answer(model: str, served: Served, grpc_client: GrpcClient) -> None:
    case = served.cases["iris"]
    for signature in case.signatures:
        found = predict(grpc_client, served.server, model, case, signature)
        assert_same(found, case.expected(signature))
    wrong = {"instances": [[1.0, 2.0]]}
    here = served.server.predict("iris", wrong)
    assert served.server.predict(model, wrong).body == here.body
    path = "/v1/models/{}/metadata"
    metadata = served.server.get(path.format(model)).body.replace(f'"{model}"'.encode(), b'"iris"')
    assert json.loads(metadata) == served.server.get(path.format("iris")).json()


def test_a_worker_that_dies_is_replaced(served: Served) -> None:
    done = subprocess.run(
        ["pgrep", "-P", str(served.server.process.pid), "-f", "servable.loaders._worker there/1"],
        capture_output=True,
        text=True,
        check=True,
    )
    (worker,) = done.stdout.split()
    os.kill(int(worker), signal.SIGSEGV)
    body = {"instances": [[6.7, 3.0, 5.2, 2.3]]}
    assert served.server.predict("iris", body).status == 200
    until = time.monotonic() + 30
    while served.server.predict("there", body).status != 200:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_large_batch_ends_at_its_deadline(served: Served, grpc_client: GrpcClient) -> None:
    x = np.random.default_rng(0).random((100_000, 20)).astype("float32")
    start = time.monotonic()
    answer = grpc_client.predict(served.server.port, "large", {"inputs": x[:4000]})
    seconds = time.monotonic() - start
    assert answer["outputs"]["predictions"].shape == (4000,)
    start = time.monotonic()
    with pytest.raises(RpcError) as raised:
        grpc_client.predict(served.server.port, "large", {"inputs": x}, timeout=0.2)
    assert raised.value.code == "DEADLINE_EXCEEDED"
    assert time.monotonic() - start < 0.2 + 25 * seconds
    assert served.server.predict("iris", {"instances": [[1, 2, 3, 4]]}).status == 200


def resident_megabytes(server: ServerProcess) -> int:
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) // 1024


def test_an_unloaded_model_gives_its_memory_back(
    served: Served, grpc_client: GrpcClient, tmp_path: Path
) -> None:
    from servable._server.config.models import ModelConfig
    from servable.lifecycle import ServableId
    from servable.platforms import PlatformContext, VersionDirectory, find_platforms

    small = entry("small", served.directory / "iris", served.library)
    large = entry("large", served.directory / "large", served.library)
    version = served.directory / "large/1"
    config = ModelConfig("large", str(version.parent), served.library)
    platform = find_platforms(PlatformContext())[served.library]
    loader = platform.make_loader(ServableId("large", 1), VersionDirectory(str(version), config))
    estimate = loader.estimate_resources() >> 20
    with ServerProcess(
        [config_flag(tmp_path / "models.config", small)], directory=tmp_path
    ) as server:
        server.wait_until_available("small")
        before = resident_megabytes(server)
        for _ in range(2):
            grpc_client.call("reload", server.port, f"model_config_list {{ {small} {large} }}")
            server.wait_until_available("large")
            loaded = resident_megabytes(server) - before
            grpc_client.call("reload", server.port, f"model_config_list {{ {small} }}")
            server.wait_until_state("large", 1, "END")
            kept = resident_megabytes(server) - before
            print(f"{served.library}: estimate {estimate} MiB, loaded {loaded}, kept {kept}")
            assert 1 < loaded < estimate + 10
            assert kept < loaded / 2 + 10


def test_recorded_requests_and_zeros_warm_a_version_up(served: Served, tmp_path: Path) -> None:
    base = tmp_path / "iris"
    version = base / "1"
    version.mkdir(parents=True)
    for file in (served.directory / "iris/1").iterdir():
        (version / file.name).write_bytes(file.read_bytes())
    (tmp_path / "predict").write_text('{"instances": [[6.7, 3.0, 5.2, 2.3]]}')
    (tmp_path / "classify").write_text('{"examples": [{"inputs": [6.7, 3.0, 5.2, 2.3]}]}')
    requests = [f"--request={tmp_path / name}" for name in ("predict", "classify")]
    done = subprocess.run(
        [COMMAND, "warmup", f"--model_base_path={base}", *requests],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    automatic = "servable_options { warmup { automatic: true } }"
    zeros = entry("zeros", served.directory / "iris", served.library, automatic)
    recorded = entry("recorded", base, served.library)
    flag = config_flag(tmp_path / "models.config", zeros, recorded)
    with ServerProcess([flag], directory=tmp_path) as server:
        server.wait_until_available("zeros", "recorded")
        assert "Number of warmup records read: 2." in server.log
        assert re.search(r"Warmed up \S+ with zeros", server.log)


def test_commands_describe_models_of_paths(served: Served) -> None:
    path = served.directory / "iris"
    for command in (["check", "--load", path], ["inspect", path]):
        done = subprocess.run(
            [COMMAND, *map(str, command)], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        for name in ("contributions", "probabilities", "labels"):
            assert name in done.stdout
