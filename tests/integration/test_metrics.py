"""The metrics page, read with the parser of Prometheus' client library."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.openmetrics import parser as openmetrics

from support import models
from support.grpc_client import GrpcClient, RpcError
from support.metrics_page import PATH, Growth, labels, monitoring_flag, scrape
from support.server_process import COMMAND, ServerProcess, StartServer, free_port, model_config

SERVING = ":tensorflow:serving:"
WARM_UP_FILE = "assets.extra/tf_serving_warmup_requests"

GUIDE = (models.ROOT / "docs/guides/metrics.md").read_text()


@pytest.fixture(scope="module")
def server(
    half_plus_two_version: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server with a metrics page, whose counts the tests of this module share."""
    directory = tmp_path_factory.mktemp("metrics")
    arguments = [
        "--model_name=half_plus_two",
        f"--model_base_path={half_plus_two_version.parent}",
        monitoring_flag(directory),
    ]
    with ServerProcess(arguments, directory=directory) as process:
        process.wait_until_available("half_plus_two")
        yield process
        assert process.is_running, process.log


@pytest.fixture
def growth(server: ServerProcess) -> Growth:
    return Growth(server)


def test_requests_of_both_protocols_are_counted_by_model_and_status(
    server: ServerProcess, grpc_client: GrpcClient, growth: Growth
) -> None:
    instances = {"instances": [1.0, 2.0]}
    assert server.predict("half_plus_two", instances).status == 200
    assert server.predict("half_plus_two", {"instances": ["text"]}).status == 400
    assert server.predict("half_plus_two", b"{").status == 400
    assert server.predict("half_plus_two/versions/9", instances).status == 404
    assert server.get("/v1/models/half_plus_two/metadata").status == 200
    assert server.get("/v1/models/versions/3").status == 400
    assert server.request("PUT", "/v1/models/half_plus_two").status == 400
    assert server.get("/nothing").status == 404, "no request to the API"
    for _ in range(3):
        grpc_client.predict(server.port, "half_plus_two", {"x": np.float32([1.0])})
    with pytest.raises(RpcError, match="INVALID_ARGUMENT"):
        grpc_client.predict(server.port, "half_plus_two", {"y": np.float32([1.0])})
    grpc_client.call("status", server.port, "half_plus_two")
    grpc_client.call("metadata", server.port, "half_plus_two")

    assert growth(f"{SERVING}request_count") == {
        labels(model_name="half_plus_two", status="OK"): 5,
        labels(model_name="half_plus_two", status="INVALID_ARGUMENT"): 3,
        labels(model_name="half_plus_two", status="NOT_FOUND"): 1,
        labels(model_name="", status="INVALID_ARGUMENT"): 2,
    }
    assert growth("servable_version_requests_total") == {
        labels(model_name="half_plus_two", version="1", status="OK"): 4,
        labels(model_name="half_plus_two", version="1", status="INVALID_ARGUMENT"): 2,
    }, "a body that is no JSON has not reached a version"


def test_latencies_are_those_of_successful_requests_and_of_their_runs(
    server: ServerProcess, grpc_client: GrpcClient, growth: Growth
) -> None:
    server.predict("half_plus_two", {"instances": [1.0, 2.0]})
    server.predict("half_plus_two", b"{")
    server.get("/v1/models/half_plus_two")
    grpc_client.predict(server.port, "half_plus_two", {"x": np.float32([1.0])})
    example = {"signature_name": "regress_x_to_y", "examples": [{"x": 1.0}]}
    body = json.dumps(example).encode()
    assert server.request("POST", "/v1/models/half_plus_two:regress", body).status == 200

    model = {"model_name": "half_plus_two"}
    expected = {
        labels(**model, API="predict", entrypoint="REST"): 1,
        labels(**model, API="", entrypoint="REST"): 1,
        labels(**model, API="regress", entrypoint="REST"): 1,
        labels(**model, API="Predict", entrypoint="GRPC"): 1,
    }
    assert growth(f"{SERVING}request_latency_count") == expected
    assert all(value > 1 for value in growth(f"{SERVING}request_latency_sum").values()), "in µs"
    assert growth(f"{SERVING}runtime_latency_count") == {
        labels(**model, API="Predict", runtime="TF1"): 2,
        labels(**model, API="Regress", runtime="TF1"): 1,
    }
    assert growth(":tensorflow:core:graph_runs") == {(): 3}


def test_histograms_have_the_limits_of_tensorflow_serving_and_add_up(server: ServerProcess) -> None:
    server.predict("half_plus_two", {"instances": [1.0]})
    page = scrape(server)
    point = labels(model_name="half_plus_two", API="predict", entrypoint="REST")
    buckets = {
        dict(key)["le"]: value
        for key, value in page[f"{SERVING}request_latency_bucket"].items()
        if key[:3] == point
    }
    limits = list(buckets)
    assert (limits[:5], limits[-2:]) == (
        ["10", "18", "32.4", "58.32", "104.976"],
        ["1.47476e+09", "+Inf"],
    )
    assert len(limits) == 34
    assert list(buckets.values()) == sorted(buckets.values())
    assert buckets["+Inf"] == page[f"{SERVING}request_latency_count"][point]


def test_the_page_is_in_the_form_of_tensorflow_serving(server: ServerProcess) -> None:
    text = server.get(PATH).body.decode()
    lines = text.splitlines()
    types = [line.split()[2] for line in lines if line.startswith("# TYPE ")]
    assert types == sorted(types)
    assert "" not in lines
    assert text.endswith("\n")
    # From the start, with or without points.
    for name, kind in (
        ("batching_session:queuing_latency", "histogram"),
        ("batching_session:wrapped_run_count", "counter"),
        ("mlmd_map", "gauge"),
        ("model_warmup_latency", "histogram"),
        ("model_warmup_records_read", "counter"),
        ("request_count", "counter"),
        ("request_example_count_total", "counter"),
        ("request_example_counts", "histogram"),
        ("request_latency", "histogram"),
        ("request_log_count", "counter"),
        ("runtime_latency", "histogram"),
    ):
        assert f"# TYPE {SERVING}{name} {kind}" in lines
    assert not [line for line in lines if line.startswith("# HELP :")], (
        "TensorFlow Serving has none"
    )


def test_the_guide_names_what_is_there(
    start_server: StartServer, half_plus_two_version: Path, tmp_path: Path
) -> None:
    (config,) = re.findall(r"(?ms)^```\n(# monitoring.config.*?)^```$", GUIDE)
    flag = monitoring_flag(tmp_path, config)
    server = start_server({"half_plus_two": half_plus_two_version.parent}, flag)
    server.wait_until_answers()
    (path,) = re.findall(r"(?m)^    metrics_path: (.*)$", GUIDE)
    page = server.get(path).body.decode()
    there = set(re.findall(r"(?m)^# TYPE (\S+)", page))
    named = set(re.findall(r"`(:\w[\w:]+|servable_\w+)`", GUIDE))
    assert len(named) > 12
    assert named <= there
    ours = {name for name in there if name.startswith("servable_")}
    assert {name for name in ours if "_process_" not in name} <= named


def test_any_method_gets_the_page_and_nothing_but_the_exact_path(server: ServerProcess) -> None:
    for method in ("GET", "POST", "PUT", "OPTIONS"):
        reply = server.request(method, PATH, b"body" if method == "POST" else None)
        assert (reply.status, reply.body[:7]) == (200, b"# TYPE "), method
    reply = server.get(f"{PATH}?name=x")
    assert (reply.status, reply.headers["content-type"]) == (400, "text/plain")
    assert reply.body.decode() == f"Unexpected path: {PATH}?name=x. Should be {PATH}"
    assert server.get(f"{PATH}/").status == 404
    before = scrape(server)[f"{SERVING}request_count"]
    assert scrape(server)[f"{SERVING}request_count"] == before, "a scrape is not counted"


def test_invented_names_do_not_fill_the_page(server: ServerProcess) -> None:
    for number in range(300):
        server.get(f"/v1/models/no-such-model-{number}")
    server.get(f"/v1/models/{'x' * 1000}")
    server.get("/v1/models/a%22b%5C%0Ac%FF")
    counts = scrape(server)[f"{SERVING}request_count"]
    assert counts[labels(model_name="no-such-model-0", status="NOT_FOUND")] == 1
    assert counts[labels(model_name="(other)", status="NOT_FOUND")] >= 200
    assert len(counts) < 150


def test_state_and_process_are_shown(server: ServerProcess) -> None:
    page = scrape(server)
    model = {"model_name": "half_plus_two"}
    assert page["servable_versions"] == {labels(**model, state="AVAILABLE"): 1}
    assert page["servable_requests_in_flight"] == {labels(**model, version="1"): 0}
    assert page["servable_loads_total"] == {labels(**model, status="OK"): 1}
    assert page["servable_process_resident_memory_bytes"][()] > 50e6
    assert 0 < page["servable_process_cpu_seconds_total"][()] < 100
    for name in ("resident_memory_bytes", "virtual_memory_bytes", "open_fds", "max_fds", "threads"):
        assert page[f"process_{name}"][()] > 0
        assert f"servable_process_{name}" in page
    assert page["process_start_time_seconds"] == page["servable_process_start_time_seconds"]
    assert 0 < page["process_cpu_seconds_total"][()] < 100
    (build,) = page["servable_build_info"]
    assert dict(build)["tensorflow"].count(".") == 2


ACCEPT_OF_PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.75,application/openmetrics-text;"
    "version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.25,*/*;q=0.1"
)


def test_openmetrics_is_sent_where_it_is_asked_for_with_the_same_names(
    server: ServerProcess,
) -> None:
    server.predict("half_plus_two", {"instances": [1.0]})
    reply = server.request("GET", PATH, headers={"Accept": ACCEPT_OF_PROMETHEUS})
    kind = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert (reply.status, reply.headers["content-type"]) == (200, kind)
    page = reply.body.decode()
    families = openmetrics.text_string_to_metric_families(page)
    samples = {sample.name for family in families for sample in family.samples}
    names = re.compile(r"^[a-zA-Z_:][\w:]*", re.MULTILINE)
    assert samples == set(names.findall(page)) == set(names.findall(server.get(PATH).body.decode()))
    assert {f"{SERVING}request_count", "servable_loads_total", "process_open_fds"} <= samples
    for accept in ("*/*", "text/plain", "application/openmetrics-text;q=0.1, text/plain"):
        reply = server.request("GET", PATH, headers={"Accept": accept})
        assert reply.headers["content-type"] == "text/plain", accept


def test_loads_and_warm_ups_are_counted_by_the_path_of_the_version(
    start_server: StartServer, half_plus_two_version: Path, model_cache: Path, tmp_path: Path
) -> None:
    records = models.exported(models.WARM_UP_EXPORT, model_cache) / "every_kind"
    first, second = tmp_path / "m/1", tmp_path / "m/2"
    shutil.copytree(half_plus_two_version, first)
    (first / WARM_UP_FILE).parent.mkdir(exist_ok=True)
    shutil.copyfile(records, first / WARM_UP_FILE)
    second.mkdir()
    (second / "saved_model.pb").write_bytes(b"no graph")
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "{tmp_path}/m" '
        'model_platform: "tensorflow" model_version_policy { all {} } } }'
    )
    server = start_server({}, f"--model_config_file={config}", monitoring_flag(tmp_path))
    server.wait_until_available("m", version=1)
    server.wait_until_state("m", version=2, state="END")
    page = scrape(server)
    attempts = page[":tensorflow:cc:saved_model:load_attempt_count"]
    assert attempts == {
        labels(model_path=str(first), status="success"): 1,
        labels(model_path=str(second), status="fail"): 1,
    }
    assert page[":tensorflow:cc:saved_model:load_latency"][labels(model_path=str(first))] > 100
    warmed_up = labels(model_path=str(first), status="OK")
    assert page[f"{SERVING}model_warmup_records_read"] == {warmed_up: 5}
    assert page[f"{SERVING}model_warmup_latency_count"] == {warmed_up: 1}
    runs = page[f"{SERVING}runtime_latency_count"]
    assert {dict(key)["API"] for key in runs} == {"Predict", "Classify", "Regress"}
    states = page["servable_versions"]
    assert states[labels(model_name="m", state="AVAILABLE")] == 1
    assert states[labels(model_name="m", state="FAILED")] == 1
    loads = {dict(key)["status"]: count for key, count in page["servable_loads_total"].items()}
    assert loads.pop("OK") == 1
    assert list(loads.values()) == [1], "the failure, by its code"


def test_a_reload_tells_by_how_much_counters_have_grown(
    start_server: StartServer, half_plus_two_version: Path, grpc_client: GrpcClient
) -> None:
    served = {"half_plus_two": half_plus_two_version.parent}
    server = start_server(served)
    server.wait_until_available("half_plus_two")
    names = (
        "servable_config_reloads_total",
        "/tensorflow/cc/saved_model/load_attempt_count",
        "/tensorflow/serving/runtime_latency",
        "none",
    )
    grown = grpc_client.call("reload", server.port, model_config(served), names)
    assert grown == {**dict.fromkeys(names, 0), "servable_config_reloads_total": 1}


def test_a_page_may_have_any_path_even_one_of_the_api(
    start_server: StartServer, half_plus_two_version: Path, tmp_path: Path
) -> None:
    flag = monitoring_flag(
        tmp_path, 'prometheus_config { enable: true path: "/v1/models/half_plus_two" }'
    )
    server = start_server({"half_plus_two": half_plus_two_version.parent}, flag)
    server.wait_until_answers()
    assert "servable_versions" in scrape(server, "/v1/models/half_plus_two")
    assert server.get(PATH).status == 404


@pytest.mark.parametrize("text", ["", "prometheus_config { }", "prometheus_config { path: '/x' }"])
def test_there_is_no_page_unless_it_is_enabled(
    text: str, start_server: StartServer, half_plus_two_version: Path, tmp_path: Path
) -> None:
    flags = [monitoring_flag(tmp_path, text)] if text else []
    server = start_server({"half_plus_two": half_plus_two_version.parent}, *flags)
    server.wait_until_answers()
    assert [server.get(path).status for path in (PATH, "/x")] == [404, 404]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("prometheus_config { enabled: true }", "Invalid protobuf file: '{}'"),
        ("", "Invalid protobuf file: '{}'"),
        (None, "{}; No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_used_ends_the_start(
    text: str | None, error: str, demo_models: Path, tmp_path: Path
) -> None:
    file = tmp_path / "monitoring.config"
    if text is not None:
        file.write_text(text)
    finished = subprocess.run(
        [
            COMMAND,
            f"--model_base_path={demo_models / 'turtle3'}",
            f"--monitoring_config_file={file}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 255
    assert "Failed to start server. Error: " in finished.stderr
    assert error.format(file) in finished.stderr


def test_requests_refused_by_their_heads_are_counted(
    start_server: StartServer, half_plus_two_version: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("app:predict:app-key-0123456789\n")
    admin_port = free_port()
    server = start_server(
        {"m": half_plus_two_version.parent},
        f"--api_keys_file={keys}",
        f"--paths_without_api_key={PATH}",
        f"--admin_api_port={admin_port}",
        "--max_header_bytes=2000",
        "--header_timeout_seconds=0.5",
        monitoring_flag(tmp_path),
    )
    server.wait_until_answers()

    def status_of(head: bytes) -> bytes:
        """The status of an answer to the head of a request alone."""
        with socket.create_connection(("127.0.0.1", server.rest_port), timeout=20) as connection:
            connection.sendall(head)
            return connection.recv(1 << 16).split(b" ")[1]

    before = scrape(server)["servable_requests_refused_total"]
    key = {"x-api-key": "app-key-0123456789"}
    assert server.get("/v1/models/m").status == 401
    assert server.get("/v1/models", port=admin_port).status == 401
    assert server.request("GET", "/v1/models", headers=key, port=admin_port).status == 403
    too_large = {**key, "x-large": "x" * 3000}
    assert server.request("GET", "/v1/models/m", headers=too_large).status == 431
    assert status_of(b"GET /v1/models/m HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n") == b"431"
    assert status_of(b"GET / HTTP/1.1\r\n: b\r\n\r\n") == b"400"
    assert status_of(b"GET / HTTP/1.1\r\n") == b"408"
    refused = scrape(server)["servable_requests_refused_total"]
    grown = {labels[0][1]: count - before[labels] for labels, count in refused.items()}
    assert grown == {
        "unauthenticated": 2,
        "permission_denied": 1,
        "head_too_large": 2,
        "malformed_head": 1,
        "head_timed_out": 1,
    }
