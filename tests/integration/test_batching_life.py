"""Batched models that hang, and version changes of batched models, under a running server."""

from __future__ import annotations

import http.client
import itertools
import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support import models
from support.grpc_client import GrpcClient
from support.server_process import Reply, ServerProcess, StartServer

MOODY = Path(__file__).resolve().parents[1] / "testdata/python_models/moody"

PLUS = """
from servable.signature import TensorSpec, serves

@serves(inputs={{"x": TensorSpec("float32", [None])}}, outputs={{"y": TensorSpec("float32", [None])}})
def plus(inputs):
    return {{"y": inputs["x"] / 2 + {offset}}}
"""
"""The function of `half_plus_two`."""


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def start_batched(start_server: StartServer, tmp_path: Path) -> Callable[..., ServerProcess]:
    """Start a server that batches everything: `start_batched({name: (platform, base_path)}, parameters)`."""

    def start(served: dict[str, tuple[str, Path]], parameters: str) -> ServerProcess:
        config, file = tmp_path / "my.config", tmp_path / "batching.config"
        entries = "".join(
            f'config {{ name: "{name}" base_path: "{path}" model_platform: "{platform}" }}\n'
            for name, (platform, path) in served.items()
        )
        config.write_text(f"model_config_list {{\n{entries}}}\n")
        file.write_text(parameters)
        server = start_server(
            {},
            f"--model_config_file={config}",
            "--enable_batching",
            f"--batching_parameters_file={file}",
        )
        server.wait_until_available(*served)
        return server

    return start


StartBatched = Callable[[dict[str, tuple[str, Path]], str], ServerProcess]


def add_version(platform: str, base_path: Path, version: int, template: Path) -> None:
    """Add a version that answers x / 2 + version."""
    base_path.mkdir(exist_ok=True)
    if platform == "tensorflow":
        models.add_version(base_path, version, template, offset=version)
        return
    aside = base_path / f"writing-{version}"
    aside.mkdir()
    (aside / "model.py").write_text(PLUS.format(offset=version))
    aside.rename(base_path / str(version))


def test_a_model_that_hangs_holds_up_no_other(
    start_batched: StartBatched, demo_models: Path
) -> None:
    server = start_batched(
        {
            "hangs": ("python", MOODY),
            "other": ("python", MOODY),
            "tf": ("tensorflow", demo_models / "half_plus_two"),
        },
        "num_batch_threads { value: 2 } max_batch_size { value: 1 } max_enqueued_batches { value: 4 }",
    )

    def obey(model: str, order: str) -> Reply:
        return server.predict(model, {"inputs": [order]})

    def batches() -> list[int]:
        """Those that run, and those that wait."""
        (version,) = server.get("/v1/models/hangs/batching").json()["versions"]
        queue = version["queues"][0] if version["queues"] else {}
        return [queue.get("running_batches"), queue.get("waiting_batches")]

    with ThreadPoolExecutor(6) as threads:
        hanging = [threads.submit(obey, "hangs", "sleep 60") for _ in range(2)]
        wait_for(lambda: batches() == [2, 0])
        hanging += [threads.submit(obey, "hangs", "sleep 60") for _ in range(4)]
        wait_for(lambda: batches() == [2, 4])
        assert obey("hangs", "").status == 503
        start = time.monotonic()
        for _ in range(20):
            assert obey("other", "").status == 200
            assert server.predict("tf", {"instances": [1.0]}).json() == {"predictions": [2.5]}
        assert time.monotonic() - start < 10
        server.kill()
        assert all(call.exception() for call in hanging)


class OwnAnswers:
    """Requests x / 2 + offset, with a different x each time, over persistent connections.

    Attributes:
        offsets: The number of answers, by offset.
        errors: The number of all other answers.
    """

    def __init__(self, port: int, threads: int) -> None:
        self.offsets: Counter[float] = Counter()
        self.errors: Counter[str] = Counter()
        self._is_stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(port, 10_000 * n)) for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, port: int, first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for n in itertools.count():
            if self._is_stopped.is_set():
                break
            # The number of rows varies as well, and all values are exact.
            xs = [float(first + (3 * n + row) % 10_000) for row in range(1 + n % 3)]
            body = json.dumps({"instances": xs}).encode()
            try:
                connection.request("POST", "/v1/models/m:predict", body)
                reply = connection.getresponse()
                answer = json.loads(reply.read())
            except (OSError, http.client.HTTPException) as error:
                self.errors[repr(error)] += 1
                connection.close()
                continue
            ys = answer.get("predictions", [])
            offsets = {y - x / 2 for x, y in zip(xs, ys, strict=False)}
            if len(ys) == len(xs) and len(offsets) == 1:
                self.offsets[offsets.pop()] += 1
            else:
                self.errors[f"{xs}: {answer}"] += 1
        connection.close()

    def stop(self) -> None:
        """Stop, and wait for the last answers."""
        self._is_stopped.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize("platform", ["tensorflow", "python"])
def test_no_request_of_a_batch_fails_while_versions_are_swapped(
    platform: str,
    start_batched: StartBatched,
    half_plus_two_version: Path,
    grpc_client: GrpcClient,
    tmp_path: Path,
) -> None:
    base_path, last, stop_file = tmp_path / "m", 5, tmp_path / "stop"
    add_version(platform, base_path, 1, half_plus_two_version)
    server = start_batched(
        {"m": (platform, base_path)},
        "max_batch_size { value: 8 } batch_timeout_micros { value: 1000 } "
        "allowed_batch_sizes: [4, 8] num_batch_threads { value: 2 } max_enqueued_batches { value: 100 }",
    )
    over_rest = OwnAnswers(server.rest_port, threads=4)
    over_grpc: dict[str, Counter[object]] = {}

    def ask_over_grpc() -> None:
        over_grpc.update(
            grpc_client.call("offsets_until", server.port, "m", str(stop_file), threads=4)
        )

    grpc_load = threading.Thread(target=ask_over_grpc)
    grpc_load.start()
    try:
        for version in range(2, last + 1):
            add_version(platform, base_path, version, half_plus_two_version)
            shutil.rmtree(base_path / str(version - 1))
            server.wait_until_available("m", version=version)
        wait_for(lambda: server.states("m").get(last - 1) == "END")
        seen = over_rest.offsets[last]
        wait_for(lambda: over_rest.offsets[last] > seen + 100)
    finally:
        over_rest.stop()
        stop_file.touch()
        grpc_load.join()
    assert (over_rest.errors, over_grpc["errors"]) == (Counter(), Counter())
    for offsets in (over_rest.offsets, over_grpc["offsets"]):
        assert {1, last} <= set(offsets) <= set(range(1, last + 1))
    # The requests shared batches.
    (version,) = server.get("/v1/models/m/batching").json()["versions"]
    (queue,) = version["queues"]
    assert queue["mean_rows_per_batch"] > 2.5, queue


def test_the_threads_of_a_python_version_end_with_it(
    start_batched: StartBatched, half_plus_two_version: Path, tmp_path: Path
) -> None:
    base_path = tmp_path / "m"
    add_version("python", base_path, 1, half_plus_two_version)
    server = start_batched(
        {"m": ("python", base_path)},
        'num_batch_threads { value: 3 } thread_pool_name { value: "batchers" }',
    )

    def batchers() -> int:
        tasks = Path(f"/proc/{server.process.pid}/task").glob("*/comm")
        return sum(task.read_text().startswith("batchers") for task in tasks)

    for version in range(1, 4):
        assert server.predict("m", {"instances": [2.0]}).json() == {"predictions": [version + 1]}
        assert batchers() == 3
        add_version("python", base_path, version + 1, half_plus_two_version)
        server.wait_until_available("m", version=version + 1)
        wait_for(lambda v=version: server.states("m").get(v) == "END")
        wait_for(lambda: batchers() == 3)
    shutil.rmtree(base_path / "4")
    for version in range(1, 4):
        shutil.rmtree(base_path / str(version))
    wait_for(lambda: batchers() == 0)
