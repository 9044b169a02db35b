"""Version changes under a running server."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from support import models
from support.grpc_client import GrpcClient, RpcError
from support.server_process import Reply, ServerProcess, StartServer, free_port, steps_that_take

SWAPS = 20

THREADS_OF_CHANGES = 16
"""The limit of concurrent reloads, loads, unloads and administration requests for clients."""


@pytest.fixture
def base_path(tmp_path: Path, half_plus_two_version: Path) -> Path:
    """A model with version 1, which answers x / 2 + 1."""
    path = tmp_path / "model"
    path.mkdir()
    models.add_version(path, 1, half_plus_two_version, offset=1)
    return path


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def predict(server: ServerProcess, model: str = "m") -> float:
    """The model's answer to 0, which is its version's offset."""
    reply = server.predict(model, {"instances": [0.0]})
    assert reply.status == 200, reply.body
    return float(reply.json()["predictions"][0])


class RestLoad:
    """Sends predict requests over persistent connections until it is stopped."""

    def __init__(self, port: int, threads: int) -> None:
        self.answers: Counter[float] = Counter()
        self.errors: Counter[str] = Counter()
        self._port = port
        self._is_stopped = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        while not self._is_stopped.is_set():
            try:
                connection.request("POST", "/v1/models/m:predict", b'{"instances": [0.0]}')
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.errors[repr(error)] += 1
                connection.close()
                continue
            if answer.status == 200:
                self.answers[float(body.split(b"[")[1].split(b"\n")[0])] += 1
            else:
                self.errors[body.decode()] += 1
        connection.close()

    def stop(self) -> None:
        """Stop, and wait for the last answers."""
        self._is_stopped.set()
        for thread in self._threads:
            thread.join()


def test_no_request_fails_while_versions_are_swapped(
    start_server: StartServer,
    base_path: Path,
    half_plus_two_version: Path,
    tmp_path: Path,
    grpc_client: GrpcClient,
) -> None:
    server = start_server({"m": base_path})
    server.wait_until_available("m")
    stop_file = tmp_path / "stop"
    over_grpc: dict[str, Counter[object]] = {}

    def load_over_grpc() -> None:
        over_grpc.update(
            grpc_client.call(
                "predict_until",
                *(server.port, "m", {"x": np.array([0.0], np.float32)}, "y", str(stop_file), 2),
            )
        )

    grpc_load = threading.Thread(target=load_over_grpc)
    grpc_load.start()
    rest_load = RestLoad(server.rest_port, threads=2)
    last = 1 + SWAPS
    try:
        for version in range(2, last + 1):
            models.add_version(base_path, version, half_plus_two_version, offset=version)
            shutil.rmtree(base_path / str(version - 1))
            server.wait_until_available("m", version=version)
        wait_for(lambda: server.states("m").get(last - 1) == "END")
    finally:
        rest_load.stop()
        stop_file.touch()
        grpc_load.join()

    assert rest_load.errors == Counter()
    assert over_grpc["errors"] == Counter()
    # Both got answers of the first and the last version, and no errors.
    assert {1.0, float(last)} <= set(rest_load.answers) <= {float(v) for v in range(1, last + 1)}
    assert {(1.0,), (float(last),)} <= set(over_grpc["answers"])
    assert predict(server) == last
    assert server.states("m")[last] == "AVAILABLE"


def test_a_newer_version_replaces_the_older_one(
    start_server: StartServer, base_path: Path, half_plus_two_version: Path
) -> None:
    server = start_server({"m": base_path})
    server.wait_until_available("m")
    assert predict(server) == 1
    models.add_version(base_path, 2, half_plus_two_version, offset=2)
    wait_for(lambda: server.states("m") == {2: "AVAILABLE", 1: "END"})
    assert predict(server) == 2
    reply = server.predict("m/versions/1", {"instances": [0.0]})
    assert (reply.status, reply.error) == (404, "Servable not found for request: Specific(m, 1)")


def test_a_version_that_fails_to_load_leaves_the_older_one_serving(
    start_server: StartServer, base_path: Path
) -> None:
    server = start_server({"m": base_path})
    server.wait_until_available("m")
    models.add_corrupt_version(base_path, 2)
    wait_for(lambda: server.states("m").get(2) == "END")
    failed, served = server.get("/v1/models/m").json()["model_version_status"]
    assert failed["version"] == "2"
    assert failed["status"]["error_code"] != "OK"
    assert failed["status"]["error_message"]
    assert served == {
        "version": "1",
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    assert predict(server) == 1


def test_a_good_version_after_a_failed_one_is_served(
    start_server: StartServer, base_path: Path, half_plus_two_version: Path
) -> None:
    server = start_server({"m": base_path})
    server.wait_until_available("m")
    models.add_corrupt_version(base_path, 2)
    wait_for(lambda: server.states("m").get(2) == "END")
    models.add_version(base_path, 3, half_plus_two_version, offset=3)
    server.wait_until_available("m", version=3)
    assert predict(server) == 3


def test_a_failed_version_that_was_replaced_is_tried_again(
    start_server: StartServer, base_path: Path, half_plus_two_version: Path
) -> None:
    server = start_server({"m": base_path})
    server.wait_until_available("m")
    corrupt = models.add_corrupt_version(base_path, 2)
    wait_for(lambda: server.states("m").get(2) == "END")
    corrupt.rename(base_path / "corrupt")
    models.add_version(base_path, 2, half_plus_two_version, offset=2)
    server.wait_until_available("m", version=2)
    assert predict(server) == 2


def test_unloading_waits_for_requests_in_flight(
    start_server: StartServer, runtime_models: Path, tmp_path: Path
) -> None:
    path = tmp_path / "steps"
    shutil.copytree(runtime_models / "steps/1", path / "1")
    server = start_server({"steps": path})
    server.wait_until_available("steps")
    steps = steps_that_take(server, 5)
    answers: list[int] = []

    def ask() -> None:
        reply = server.predict("steps/versions/1", {"inputs": steps})
        answers.append(reply.json()["outputs"])

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.3)
    shutil.copytree(runtime_models / "steps/1", path / "writing")
    (path / "writing").rename(path / "2")
    server.wait_until_available("steps", version=2)
    wait_for(lambda: server.states("steps")[1] != "AVAILABLE")
    assert asking.is_alive(), "the request was too quick for this test"
    assert server.states("steps")[1] == "UNLOADING"
    asking.join()
    assert answers == [steps]
    wait_for(lambda: server.states("steps")[1] == "END")


class TestBasePaths:
    def test_an_empty_one_is_waited_for(
        self, start_server: StartServer, tmp_path: Path, half_plus_two_version: Path
    ) -> None:
        path = tmp_path / "empty"
        path.mkdir()
        server = start_server({"m": path})
        server.wait_until_answers()
        reply = server.predict("m", {"instances": [0.0]})
        assert reply.status == 503
        assert "m" in reply.error
        models.add_version(path, 7, half_plus_two_version, offset=7)
        server.wait_until_available("m")
        assert predict(server) == 7

    def test_a_missing_one_is_waited_for(
        self, start_server: StartServer, tmp_path: Path, half_plus_two_version: Path
    ) -> None:
        path = tmp_path / "missing"
        server = start_server({"m": path})
        server.wait_until_answers()
        assert server.predict("m", {"instances": [0.0]}).status == 503
        wait_for(lambda: str(path) in server.log)
        path.mkdir()
        models.add_version(path, 1, half_plus_two_version, offset=1)
        server.wait_until_available("m")

    def test_a_missing_one_does_not_hurt_another_model(
        self,
        start_server: StartServer,
        base_path: Path,
        tmp_path: Path,
        half_plus_two_version: Path,
    ) -> None:
        server = start_server({"missing": tmp_path / "missing", "m": base_path})
        server.wait_until_available("m")
        models.add_version(base_path, 2, half_plus_two_version, offset=2)
        server.wait_until_available("m", version=2)
        assert predict(server) == 2

    def test_a_removed_base_path_unloads_nothing(
        self, start_server: StartServer, base_path: Path
    ) -> None:
        server = start_server({"m": base_path})
        server.wait_until_available("m")
        base_path.rename(base_path.with_name("elsewhere"))
        wait_for(lambda: str(base_path) in server.log)
        time.sleep(1.5)
        assert predict(server) == 1

    def test_one_that_is_emptied_unloads_its_versions(
        self, start_server: StartServer, base_path: Path
    ) -> None:
        server = start_server({"m": base_path})
        server.wait_until_available("m")
        shutil.rmtree(base_path / "1")
        wait_for(lambda: server.states("m") == {1: "END"})
        reply = server.predict("m", {"instances": [0.0]})
        assert (reply.status, reply.error) == (404, "Servable not found for request: Latest(m)")

    def test_other_entries_than_versions_are_ignored(
        self, start_server: StartServer, base_path: Path
    ) -> None:
        for name in ("temp-3", "v4", "5.partial", "notes"):
            (base_path / name).mkdir()
        server = start_server({"m": base_path})
        server.wait_until_available("m")
        assert server.states("m") == {1: "AVAILABLE"}


class TestCopying:
    def test_a_version_that_is_still_being_copied_is_not_loaded(
        self, start_server: StartServer, base_path: Path, half_plus_two_version: Path
    ) -> None:
        server = start_server({"m": base_path})
        server.wait_until_available("m")
        copy = base_path / "2"
        shutil.copytree(half_plus_two_version / "assets", copy / "assets")
        for _ in range(25):  # longer than a complete version is held back
            time.sleep(0.1)
            with (copy / "assets/offset.txt").open("a") as file:
                file.write("0")
        assert server.states("m") == {1: "AVAILABLE"}
        shutil.copytree(half_plus_two_version, copy, dirs_exist_ok=True)
        wait_for(lambda: server.states("m") == {1: "END", 2: "AVAILABLE"})
        assert server.log.count("Loading servable version {name: m version: 2}") == 1

    def test_a_base_path_that_is_a_model_is_version_1(
        self, start_server: StartServer, half_plus_two_version: Path
    ) -> None:
        server = start_server({"m": half_plus_two_version})
        server.wait_until_available("m")
        assert server.states("m") == {1: "AVAILABLE"}
        assert "it is served as version 1" in server.log


class TestStartUp:
    def test_a_corrupt_model_alone_ends_the_server(
        self, start_server: StartServer, tmp_path: Path
    ) -> None:
        path = tmp_path / "corrupt"
        models.add_corrupt_version(path, 1)
        server = start_server({"m": path})
        assert server.wait() == 255
        assert "Failed to start server. Error:" in server.log
        assert "1 servable(s) did not become available: {{{name: m version: 1}" in server.log

    def test_a_corrupt_model_beside_a_good_one_is_reported(
        self, start_server: StartServer, base_path: Path, tmp_path: Path
    ) -> None:
        corrupt = tmp_path / "corrupt"
        models.add_corrupt_version(corrupt, 1)
        server = start_server({"bad": corrupt, "m": base_path})
        server.wait_until_available("m")
        wait_for(lambda: server.states("bad") == {1: "END"})
        assert predict(server) == 1
        assert server.predict("bad", {"instances": [0.0]}).status in (404, 503)

    def test_a_version_directory_without_a_model_is_reported(
        self, start_server: StartServer, tmp_path: Path
    ) -> None:
        (tmp_path / "hollow/1").mkdir(parents=True)
        os.utime(tmp_path / "hollow/1", (1, 1))  # as if the writer had finished long ago
        server = start_server({"m": tmp_path / "hollow"})
        assert server.wait() == 255
        assert "does not appear to contain a SavedModel" in server.log


@pytest.fixture
def hanging(tmp_path: Path) -> Path:
    """A Python model that logs its load and then hangs."""
    version = tmp_path / "hanging" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(
        "import time\nprint('I hang', flush=True)\ntime.sleep(1000)\n"
    )
    return version.parent


@pytest.fixture
def hanging_entry(hanging: Path) -> str:
    """The configuration of this model."""
    return f'config {{ name: "h" base_path: "{hanging}" model_platform: "python" }}'


def entries_of(base_path: Path, *names: str) -> list[str]:
    """The configurations of models that share a base path."""
    return [
        f'config {{ name: "{name}" base_path: "{base_path}" model_platform: "tensorflow" }}'
        for name in names
    ]


def test_a_model_whose_load_hangs_can_be_taken_out_of_the_configuration_file(
    tmp_path: Path, base_path: Path, hanging_entry: str, start_server: StartServer
) -> None:
    server = start_server({"m": base_path}, "--model_config_file_poll_wait_seconds=1")
    server.wait_until_available("m")
    config = tmp_path / "models-0.config"

    def write(*entries: str) -> None:
        aside = tmp_path / "aside"
        aside.write_text(f"model_config_list {{ {' '.join(entries)} }}")
        aside.rename(config)

    m, n = entries_of(base_path, "m", "n")
    write(m, hanging_entry)
    wait_for(lambda: "I hang" in server.log)
    write(m, n)
    wait_for(lambda: server.predict("n", {"instances": [0.0]}).status == 200)
    assert predict(server) == 1


def test_reloads_that_were_given_up_while_a_load_hangs_hold_up_no_others(
    base_path: Path, hanging_entry: str, start_server: StartServer, grpc_client: GrpcClient
) -> None:
    server = start_server({"m": base_path}, "--allow_python_models")
    server.wait_until_available("m")

    def reload(*entries: str, timeout: float) -> None:
        config = f"model_config_list {{ {' '.join(entries)} }}"
        grpc_client.call("reload", server.port, config, timeout=timeout)

    m, n = entries_of(base_path, "m", "n")
    for _ in range(THREADS_OF_CHANGES + 1):
        with pytest.raises(RpcError, match="DEADLINE_EXCEEDED"):
            reload(m, hanging_entry, timeout=0.1)
    assert "I hang" in server.log
    reload(m, n, timeout=20)
    assert predict(server, "n") == predict(server) == 1


def test_a_reload_that_waits_for_a_load_that_hangs_ends_with_the_server(
    base_path: Path, hanging_entry: str, start_server: StartServer, grpc_client: GrpcClient
) -> None:
    server = start_server({"m": base_path}, "--allow_python_models")
    server.wait_until_available("m")

    def terminate_once_it_hangs() -> None:
        wait_for(lambda: "I hang" in server.log)
        server.terminate()

    terminating = threading.Thread(target=terminate_once_it_hangs)
    terminating.start()
    with pytest.raises(RpcError, match="UNAVAILABLE: The server is shutting down"):
        grpc_client.call("reload", server.port, f"model_config_list {{ {hanging_entry} }}")
    terminating.join()


@pytest.mark.parametrize(
    ("path", "in_force"), [("models/h", b'"name": "h"'), ("models/m/versions/9", b'"specific"')]
)
def test_administration_that_waits_ends_with_the_server(
    base_path: Path, hanging: Path, start_server: StartServer, path: str, in_force: bytes
) -> None:
    admin_port = free_port()
    server = start_server(
        {"m": base_path}, f"--admin_api_port={admin_port}", "--allow_python_models"
    )
    server.wait_until_available("m")
    body = json.dumps({"base_path": str(hanging), "model_platform": "python"}).encode()
    with ThreadPoolExecutor() as pool:
        put = partial(server.request, "PUT", f"/v1/admin/{path}", body, port=admin_port, timeout=20)
        waiting = pool.submit(put)
        wait_for(lambda: in_force in server.get("/v1/admin/config", port=admin_port).body)
        server.terminate()
        reply = waiting.result()
    assert reply.status == 503
    assert reply.error == "The server is shutting down"


def test_administration_goes_on_when_clients_that_waited_for_loads_that_hang_have_gone(
    base_path: Path, hanging: Path, start_server: StartServer
) -> None:
    admin_port = free_port()
    server = start_server(
        {"m": base_path}, f"--admin_api_port={admin_port}", "--allow_python_models"
    )
    server.wait_until_available("m")

    def administer(method: str, name: str, document: object = None, timeout: float = 20) -> Reply:
        body = json.dumps(document).encode()
        path = f"/v1/admin/models/{name}"
        return server.request(method, path, body, port=admin_port, timeout=timeout)

    added = {"base_path": str(hanging), "model_platform": "python"}
    for number in range(THREADS_OF_CHANGES):
        with pytest.raises(TimeoutError):
            administer("PUT", f"h{number}", added, timeout=0.1)
    wait_for(lambda: "I hang" in server.log)

    def is_there_room() -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return administer("DELETE", "h0").status == 200
        return False

    wait_for(is_there_room)
