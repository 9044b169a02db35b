"""The batching metrics, read with the parser of Prometheus' client library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.metrics_page import Growth, labels, monitoring_flag, scrape
from support.server_process import ServerProcess, StartServer, model_config

SESSION = ":tensorflow:serving:batching_session:"


@pytest.fixture(scope="module")
def server(
    half_plus_two_version: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server whose batches have 2 or 4 rows, and run on any idle thread."""
    directory = tmp_path_factory.mktemp("batching-metrics")
    parameters = directory / "batching.config"
    parameters.write_text("max_batch_size { value: 4 } allowed_batch_sizes: [2, 4]")
    config = directory / "models.config"
    config.write_text(model_config({"m": half_plus_two_version.parent}))
    arguments = [
        f"--model_config_file={config}",
        "--enable_batching",
        f"--batching_parameters_file={parameters}",
        monitoring_flag(directory),
    ]
    with ServerProcess(arguments, directory=directory) as process:
        process.wait_until_available("m")
        yield process
        assert process.is_running, process.log


def test_names_are_there_before_the_first_batch(server: ServerProcess) -> None:
    text = server.get("/monitoring/prometheus/metrics").body.decode()
    assert f"# TYPE {SESSION}queuing_latency histogram\n# TYPE {SESSION}wrapped_run_count" in text
    assert "batching_session:padding_size" not in text, "it comes with the first batch"


def test_batches_are_counted_by_their_sizes(server: ServerProcess) -> None:
    growth = Growth(server)
    for rows in (1, 3, 3, 2):
        assert server.predict("m", {"instances": [1.0] * rows}).status == 200
    assert server.predict("m", {"instances": [1.0] * 5}).status == 400, "too large"

    assert growth(f"{SESSION}wrapped_run_count") == {(): 4}
    assert growth(f"{SESSION}queuing_latency_count") == {labels(thread_pool_name=""): 4}
    assert growth(f"{SESSION}input_batch_size_sum") == {(): 1 + 3 + 3 + 2 + 5}
    assert growth(f"{SESSION}processed_batch_size_sum") == {(): 2 + 4 + 4 + 2}
    assert growth(f"{SESSION}padding_size_count") == {
        labels(execution_batch_size="2"): 2,
        labels(execution_batch_size="4"): 2,
    }
    assert growth(f"{SESSION}padding_size_sum") == {
        labels(execution_batch_size="2"): 1,
        labels(execution_batch_size="4"): 2,
    }
    assert growth("servable_batches_total") == {labels(model_name="m", closed="idle_thread"): 4}
    assert growth("servable_batch_rows_total") == {
        labels(model_name="m", size="2"): 3,
        labels(model_name="m", size="4"): 6,
    }
    assert growth("servable_batch_wait_seconds_count") == {labels(model_name="m"): 4}
    assert set(growth("servable_batch_run_seconds_total")) == {
        labels(model_name="m", size="2"),
        labels(model_name="m", size="4"),
    }
    page = scrape(server)
    model = labels(model_name="m")
    for gauge in ("queue_batches", "queue_rows"):
        assert page[f"servable_batch_{gauge}"] == {model: 0}
    assert page["servable_batches_running"] == {model: 0}


def test_every_padded_size_is_run_before_a_version_is_available(
    start_server: StartServer, half_plus_two_version: Path, tmp_path: Path
) -> None:
    parameters = tmp_path / "batching.config"
    parameters.write_text(
        "max_batch_size { value: 8 } allowed_batch_sizes: [2, 4, 8] "
        "batch_timeout_micros { value: 30000000 }"
    )
    server = start_server(
        {"m": half_plus_two_version.parent},
        "--enable_automatic_warmup",
        "--enable_batching",
        f"--batching_parameters_file={parameters}",
        monitoring_flag(tmp_path),
    )
    server.wait_until_available("m")
    page = scrape(server)
    runs = page["servable_batch_runs_total"]
    assert set(runs) == {labels(model_name="m", size=str(size)) for size in (2, 4, 8)}
    assert page[f"{SESSION}wrapped_run_count"][()] == sum(runs.values())


def test_buckets_are_those_of_tensorflow_serving(server: ServerProcess) -> None:
    assert server.predict("m", {"instances": [1.0]}).status == 200
    page = scrape(server)

    def limits(name: str) -> list[str]:
        found = [dict(point)["le"] for point in page[f"{SESSION}{name}_bucket"]]
        return list(dict.fromkeys(found))

    rows = [str(2**power) for power in range(14)]
    for name in ("input_batch_size", "processed_batch_size", "padding_size"):
        assert limits(name) == [*rows, "+Inf"]
    waits = limits("queuing_latency")
    assert (len(waits), float(waits[0]), float(waits[-2])) == (53, 100, 1.09205e06)
