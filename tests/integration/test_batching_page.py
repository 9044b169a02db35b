"""`GET …/batching`, and the answer of a full queue."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servable._server.commands import check
from support import models
from support.grpc_client import GrpcClient, RpcError
from support.metrics_page import monitoring_flag, scrape
from support.rich_errors import retry_seconds
from support.server_process import Reply, ServerProcess

MOODY = Path(__file__).resolve().parents[1] / "testdata/python_models/moody"
GUIDE = (models.ROOT / "docs/guides/batching.md").read_text()


@pytest.fixture(scope="module")
def server(
    half_plus_two_version: Path, runtime_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """Models that are batched by a file, with an objective, with priorities, not at all, and with a short queue.

    `steps` is batched, but has no rows.
    """
    directory = tmp_path_factory.mktemp("batching-page")
    config = directory / "models.config"
    base_path = half_plus_two_version.parent
    tight = (
        "batching { max_batch_size { value: 1 } max_enqueued_batches { value: 1 } "
        "batch_timeout_micros { value: 1 } }"
    )
    roomy = (
        "batching { max_batch_size { value: 1 } } "
        'batching_policy { mixed_priority_batching_policy: "priority_isolation" }'
    )
    config.write_text(
        f"""model_config_list {{
          config {{ name: "ranker" base_path: "{base_path}" model_platform: "tensorflow"
            version_labels {{ key: "stable" value: 1 }} }}
          config {{ name: "prompt" base_path: "{base_path}" model_platform: "tensorflow"
            servable_options {{ batching_policy {{ latency_objective_millis: 40 }} }} }}
          config {{ name: "patient" base_path: "{MOODY}" model_platform: "python"
            servable_options {{ {roomy} }} }}
          config {{ name: "plain" base_path: "{base_path}" model_platform: "tensorflow"
            servable_options {{ no_batching: true }} }}
          config {{ name: "steps" base_path: "{runtime_models / "steps"}" model_platform: "tensorflow" }}
          config {{ name: "moody" base_path: "{MOODY}" model_platform: "python"
            servable_options {{ {tight} }} }}
        }}"""
    )
    parameters = directory / "batching.config"
    parameters.write_text(
        "max_batch_size { value: 4 } allowed_batch_sizes: [2, 4] num_batch_threads { value: 1 }"
    )
    flags = [
        f"--model_config_file={config}",
        "--allow_version_labels_for_unavailable_models",
        "--enable_batching",
        f"--batching_parameters_file={parameters}",
        monitoring_flag(directory),
    ]
    with ServerProcess(flags, directory=directory) as process:
        process.wait_until_available("ranker", "prompt", "patient", "plain", "steps", "moody")
        yield process
        assert process.is_running, process.log


def report(server: ServerProcess, path: str) -> Any:
    """The report on one model."""
    reply = server.get(f"/v1/models/{path}/batching")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json"), reply.body
    return reply.json()


def queue_of(server: ServerProcess, model: str) -> dict[str, Any]:
    """The report on the only queue of a model; empty before its first request."""
    queues = report(server, model)["versions"][0]["queues"]
    return dict(queues[0]) if queues else {}


def test_it_reports_parameters_and_statistics(server: ServerProcess) -> None:
    for rows in (1, 3, 2):
        assert server.predict("ranker", {"instances": [1.0] * rows}).status == 200
    found = report(server, "ranker")
    assert found["model_name"] == "ranker"
    (version,) = found["versions"]
    assert (version["version"], version["is_batched"]) == ("1", True)
    assert version["parameters_from"].startswith("--batching_parameters_file=")
    assert version["parameters"]["max_batch_size"] == 4
    assert version["parameters"]["allowed_batch_sizes"] == [2, 4]
    assert version["parameters"]["num_batch_threads"] == 1
    assert "max_enqueued_batches" in version["defaults"]
    assert "max_batch_size" not in version["defaults"]
    (queue,) = version["queues"]
    assert (len(queue["inputs"]), len(queue["outputs"])) == (1, 1)
    assert (queue["batches"], queue["rows"], queue["padding_rows"]) == (3, 6, 2)
    assert queue["mean_rows_per_batch"] == 2
    assert sum(queue["batches_closed_by"].values()) == 3
    assert queue["wait_micros"]["count"] == 3
    sizes = {size["size"]: (size["batches"], size["rows"]) for size in queue["sizes"]}
    assert sizes == {2: (2, 3), 4: (1, 3)}
    assert all(size["run_micros"]["longest"] > 0 for size in queue["sizes"])
    for path in ("ranker/versions/1", "ranker/labels/stable"):
        assert report(server, path)["versions"][0]["queues"][0]["batches"] == 3


def test_it_explains_the_control_for_a_latency_objective(server: ServerProcess) -> None:
    for _ in range(20):
        assert server.predict("prompt", {"instances": [1.0, 2.0]}).json() == {
            "predictions": [2.5, 3.0]
        }
    (version,) = report(server, "prompt")["versions"]
    assert version["parameters"]["latency_objective_millis"] == 40
    (queue,) = version["queues"]
    adaptive = queue["adaptive"]
    assert adaptive["latency_objective_millis"] == 40
    assert adaptive["is_attainable"] is True
    assert 1 <= adaptive["target_size"] <= version["parameters"]["max_batch_size"]
    assert 0 <= adaptive["wait_micros"] <= 40_000
    assert {times["size"] for times in adaptive["explanation"]["run_times"]} == {2}


def test_low_priority_requests_yield_to_others(
    server: ServerProcess, grpc_client: GrpcClient
) -> None:
    ends: list[str] = []

    def ask(order: str, priority: str) -> int:
        reply = server.request(
            "POST",
            "/v1/models/patient:predict",
            json.dumps({"inputs": [order]}).encode(),
            {"servable-priority": priority},
        )
        ends.append(priority)
        return reply.status

    def waiting() -> int:
        return int(queue_of(server, "patient").get("waiting_batches", 0))

    assert ask("", "high") == 200
    with ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(ask, "sleep 1.5", "high")]
        wait_for(lambda: queue_of(server, "patient")["running_batches"] == 1)
        asked.append(threads.submit(ask, "sleep 0.3", "low"))
        wait_for(lambda: waiting() == 1)
        asked.append(threads.submit(ask, "sleep 0.3", "high"))
        wait_for(lambda: waiting() == 2)
        assert [each.result() for each in asked] == [200] * 3
    assert ends == ["high", "high", "high", "low"]

    assert ask("", "urgent") == 400
    with pytest.raises(RpcError, match="INVALID_ARGUMENT") as raised:
        grpc_client.predict(
            server.port,
            "patient",
            {"do": np.array([b""], object)},
            metadata=[("servable-priority", "urgent")],
        )
    assert 'servable-priority is "urgent"; it can be "high" or "low"' in str(raised.value)


def test_a_model_without_batches_says_why(server: ServerProcess) -> None:
    explanation = "no_batching in the servable_options of the model"
    assert report(server, "plain")["versions"] == [
        {"version": "1", "is_batched": False, "explanation": explanation}
    ]


def test_a_signature_without_rows_is_named_in_the_words_of_the_check(
    server: ServerProcess, runtime_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (version,) = report(server, "steps")["versions"]
    unfit = version["signatures_not_batched"]
    assert unfit == {
        "serving_default": [
            "input steps is a scalar, and its requests will be refused",
            "output taken is a scalar, and cannot be split among requests",
        ]
    }
    refused = server.predict("steps", {"inputs": 3})
    assert refused.status == 400
    assert refused.error == "Batching Run() input tensors must have at least one dimension"
    assert report(server, "ranker")["versions"][0]["signatures_not_batched"] == {}

    check.run("servable", ["--enable_batching", f"--model_base_path={runtime_models / 'steps'}"])
    checked = capsys.readouterr().out
    for reason in unfit["serving_default"]:
        assert f"Signature serving_default cannot be batched: {reason}" in checked


def test_unknown_models_and_versions_are_not_found_as_elsewhere(server: ServerProcess) -> None:
    for path in ("none", "ranker/versions/9"):
        elsewhere = server.get(f"/v1/models/{path}")
        reply = server.get(f"/v1/models/{path}/batching")
        assert reply.status == elsewhere.status == 404
    assert server.get("/v1/models/none/batching").error == server.get("/v1/models/none").error
    assert server.get("/v1/models/ranker/labels/none/batching").status == 400


def test_the_example_of_the_guide_has_the_form_of_an_answer(server: ServerProcess) -> None:
    (example,) = re.findall(r"(?ms)^```json\n(.*?)^```$", GUIDE)
    assert server.predict("ranker", {"instances": [1.0]}).status == 200

    def keys(value: Any) -> Any:
        if isinstance(value, list):
            return keys(value[0]) if value else None
        if not isinstance(value, dict):
            return None
        return {key: keys(part) for key, part in value.items() if key != "batches_closed_by"}

    assert keys(json.loads(example)) == keys(report(server, "ranker"))


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_a_full_queue_answers_with_a_retry_delay(
    server: ServerProcess, grpc_client: GrpcClient
) -> None:
    def obey(order: str) -> Reply:
        return server.predict("moody", {"inputs": [order]})

    assert obey("sleep 1.2").status == 200, "so that the run time is known"
    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(obey, "sleep 2")
        wait_for(lambda: queue_of(server, "moody")["running_batches"] == 1)
        waiting = threads.submit(obey, "")
        wait_for(lambda: queue_of(server, "moody")["waiting_batches"] == 1)
        full = "The batch scheduling queue to which this task was submitted is full; currently 1 "
        refused = obey("")
        assert (refused.status, refused.headers.get("retry-after")) == (503, "3"), refused.body
        assert refused.error.startswith(full)
        tensor = {"name": "do", "datatype": "BYTES", "shape": [1], "data": [""]}
        body = json.dumps({"inputs": [tensor]}).encode()
        refused = server.request("POST", "/v2/models/moody/infer", body)
        assert (refused.status, refused.headers.get("retry-after")) == (503, "3"), refused.body
        with pytest.raises(RpcError, match="UNAVAILABLE") as raised:
            grpc_client.predict(server.port, "moody", {"do": np.array([b""], object)})
        assert full in raised.value.details
        assert retry_seconds(raised.value.status) == (14, raised.value.details, 3)
        assert (running.result().status, waiting.result().status) == (200, 200)
    dropped = {"queue_full": 3, "deadline": 0, "client_gone": 0}
    assert queue_of(server, "moody")["requests_dropped_by"] == dropped
    page = scrape(server)["servable_batch_requests_dropped_total"]
    assert page[("model_name", "moody"), ("reason", "queue_full")] == 3


def test_requests_of_clients_that_have_hung_up_are_not_run(server: ServerProcess) -> None:
    def gone() -> int:
        return int(queue_of(server, "moody")["requests_dropped_by"]["client_gone"])

    before = gone()
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(server.predict, "moody", {"inputs": ["sleep 3"]})
        wait_for(lambda: queue_of(server, "moody")["running_batches"] == 1)
        client = http.client.HTTPConnection("127.0.0.1", server.rest_port)
        client.request("POST", "/v1/models/moody:predict", b'{"inputs": ["sleep 60"]}')
        wait_for(lambda: queue_of(server, "moody")["waiting_batches"] == 1)
        client.close()
        assert running.result().status == 200
    wait_for(lambda: gone() == before + 1)
    assert server.predict("moody", {"inputs": [""]}).status == 200


def test_the_api_document_has_it(server: ServerProcess) -> None:
    document = server.get("/openapi.json?model=ranker").json()
    assert "get" in document["paths"]["/v1/models/ranker/batching"]
    assert "ModelBatching" in document["components"]["schemas"]
