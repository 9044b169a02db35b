"""Batching and recorded warm-up of ONNX models under a running server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from support.grpc_client import GrpcClient, RpcError
from support.onnx_models import graph_model, large, scaled, value, write_version
from support.server_process import COMMAND, ServerProcess, StartServer

WARM_UP = "assets.extra/tf_serving_warmup_requests"

SLOW = "batching { max_batch_size { value: 8 } batch_timeout_micros { value: 50000 } }"
OPTIONS = {
    "greedy": "batching { max_batch_size { value: 64 } batch_timeout_micros { value: 0 } }",
    "sizes": (
        "batching { max_batch_size { value: 8 } batch_timeout_micros { value: 50000 } "
        "allowed_batch_sizes: [4, 8] }"
    ),
    "adaptive": (
        "batching { max_batch_size { value: 16 } } batching_policy { latency_objective_millis: 40 }"
    ),
    "picks": SLOW,
    "filters": SLOW,
    "wider": SLOW,
}


def served_models() -> dict[str, Any]:
    """The models, by name.

    `picks` takes rows out of a table, and fails for rows that it lacks. `filters` returns only rows that are positive.
    `wider` declares two columns, and returns as many as there are rows.
    """
    x, y = value("x", TensorProto.FLOAT, ["N"]), value("y", TensorProto.FLOAT, ["N"])
    table = np.array([10, 20, 30], np.float32)
    return {
        "greedy": large(),
        "sizes": scaled(2),
        "adaptive": scaled(3),
        "picks": graph_model(
            [helper.make_node("Gather", ["table", "i"], ["y"])],
            *([value("i", TensorProto.INT64, ["N"])], [y], {"table": table}),
        ),
        "filters": graph_model(
            [
                helper.make_node("Greater", ["x", "zero"], ["is_positive"]),
                helper.make_node("Compress", ["x", "is_positive"], ["y"], axis=0),
            ],
            *([x], [y], {"zero": np.array(0, np.float32)}),
        ),
        "wider": graph_model(
            [
                helper.make_node("Shape", ["x"], ["n"]),
                helper.make_node("Concat", ["n", "n"], ["square"], axis=0),
                helper.make_node("Expand", ["x", "square"], ["y"]),
            ],
            *([x], [value("y", TensorProto.FLOAT, ["N", 2])]),
        ),
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("batching")
    entries = [
        f'config {{ name: "{name}" base_path: "{write_version(directory / name, model).parent}" '
        f'model_platform: "onnx" servable_options {{ {OPTIONS[name]} }} }}'
        for name, model in served_models().items()
    ]
    config = directory / "models.config"
    config.write_text(f"model_config_list {{ {' '.join(entries)} }}")
    flags = [f"--model_config_file={config}", "--max_num_load_retries=0"]
    with ServerProcess(flags, directory=directory) as process:
        process.wait_until_available(*OPTIONS)
        yield process
        assert process.is_running, process.log


def queue_of(server: ServerProcess, model: str) -> Any:
    (version,) = server.get(f"/v1/models/{model}/batching").json()["versions"]
    (queue,) = version["queues"]
    return queue


def test_requests_that_wait_for_a_run_share_the_next_one(
    server: ServerProcess, grpc_client: GrpcClient
) -> None:
    rows = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    alone = grpc_client.predict(server.port, "greedy", {"x": rows[:1]})["outputs"]["y"]
    # Not to the last bit: the kernels of the runtime depend on the number of rows.
    again = [{"instances": [row.tolist()]} for row in rows]
    with ThreadPoolExecutor(16) as pool:
        answers = [*pool.map(lambda body: server.predict("greedy", body), again * 4)]
    np.testing.assert_allclose(answers[0].json()["predictions"], alone, atol=1e-5)
    for number, answer in enumerate(answers):
        np.testing.assert_allclose(
            answer.json()["predictions"], answers[number % 64].json()["predictions"], atol=1e-5
        )
    queue = queue_of(server, "greedy")
    assert queue["rows"] == 4 * 64 + 1
    assert queue["batches"] < queue["rows"], "no requests shared a run"
    assert queue["padding_rows"] == 0


def test_batches_are_padded_to_allowed_sizes(server: ServerProcess) -> None:
    bodies = [{"instances": [[i, 2 * i]] * rows} for i, rows in ((1, 1), (2, 3), (3, 5), (4, 8))]
    for body in bodies:
        wanted = [[2.0 * each for each in row] for row in body["instances"]]
        assert server.predict("sizes", body).json() == {"predictions": wanted}
    queue = queue_of(server, "sizes")
    assert (queue["batches"], queue["rows"], queue["padding_rows"]) == (4, 17, 3 + 1 + 3)
    sizes = {size["size"]: size["batches"] for size in queue["sizes"]}
    assert sizes == {4: 2, 8: 2}


def test_a_latency_objective_controls_batches(server: ServerProcess) -> None:
    with ThreadPoolExecutor(4) as pool:
        bodies = [{"instances": [[i, 1]]} for i in range(60)]
        answers = [*pool.map(lambda body: server.predict("adaptive", body).json(), bodies)]
    assert answers == [{"predictions": [[3.0 * i, 3.0]]} for i in range(60)]
    adaptive = queue_of(server, "adaptive")["adaptive"]
    assert adaptive["latency_objective_millis"] == 40
    assert adaptive["is_attainable"] is True
    assert 1 <= adaptive["target_size"] <= 16


def test_inputs_that_a_kernel_refuses_fail_only_their_request(server: ServerProcess) -> None:
    with ThreadPoolExecutor(8) as pool:
        bodies = [{"instances": [i % 4]} for i in range(32)]
        answers = [*pool.map(lambda body: server.predict("picks", body), bodies)]
    for i, answer in enumerate(answers):
        if i % 4 == 3:
            assert answer.status == 400
            assert "indices element out of data bounds, idx=3" in answer.error
        else:
            assert answer.json() == {"predictions": [10.0 * (i % 4 + 1)]}


def test_outputs_that_differ_from_the_signature_fail_their_batch_only(
    server: ServerProcess, grpc_client: GrpcClient
) -> None:
    with ThreadPoolExecutor(8) as pool:
        bodies = [{"instances": [1.0, -2.0 if i % 4 == 0 else 2.0]} for i in range(32)]
        answers = [*pool.map(lambda body: server.predict("filters", body), bodies)]
    for i, answer in enumerate(answers):
        if answer.status == 400:
            assert "output tensor's 0th dimension does not equal" in answer.error
        else:
            assert i % 4
            assert answer.json() == {"predictions": [1.0, 2.0]}
    for _ in range(4):
        assert server.predict("filters", {"instances": [1.0, 2.0]}).status == 200
        assert server.predict("filters", {"instances": [1.0, -2.0]}).status == 400
    # As the runtime, the server lets the other axes differ, which many exporters declare wrongly.
    answer = grpc_client.predict(server.port, "wider", {"x": np.ones(3, np.float32)})
    assert answer["outputs"]["y"].shape == (3, 3)
    with pytest.raises(RpcError):
        grpc_client.predict(server.port, "wider", {"x": np.ones((3, 2), np.float32)})
    assert server.predict("filters", {"instances": [5.0]}).json() == {"predictions": [5.0]}


def test_recorded_requests_warm_a_version_up_before_it_serves(
    start_server: StartServer, tmp_path: Path
) -> None:
    base_path = tmp_path / "m"
    version = write_version(base_path, scaled(2))
    requests = []
    for number, rows in enumerate(([[1, 2]], [[3, 4], [5, 6]])):
        file = tmp_path / f"request{number}"
        file.write_text(json.dumps({"instances": rows}))
        requests.append(f"--request={file}")
    done = subprocess.run(
        [COMMAND, "warmup", str(version), *requests],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == f"Wrote 2 warm-up requests to {version / WARM_UP}\n", done.stderr
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "{base_path}" '
        'model_platform: "onnx" } }'
    )
    server = start_server({}, f"--model_config_file={config}", "--max_num_load_retries=0")
    server.wait_until_available("m")
    assert f"Starting to read warmup data for model at {version / WARM_UP} with" in server.log
    assert "Number of warmup records read: 2." in server.log
    # The requests do not fit the next version, which therefore never serves.
    records = (version / WARM_UP).read_bytes()
    aside = write_version(tmp_path / "aside", scaled(3, width=5))
    (aside / WARM_UP).parent.mkdir()
    (aside / WARM_UP).write_bytes(records)
    aside.rename(base_path / "2")
    server.wait_until_state("m", 2, "END")
    status = server.get("/v1/models/m/versions/2").json()["model_version_status"][0]["status"]
    assert 'input "x": got shape [1,2], want [?,5]' in status["error_message"]
    assert server.predict("m", {"instances": [[1, 2]]}).json() == {"predictions": [[2.0, 4.0]]}
