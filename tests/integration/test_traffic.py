"""Splits, labels and shadows under a running server, changed over the administration API."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import models
from support.grpc_client import GrpcClient, RpcError
from support.server_process import Reply, ServerProcess, StartServer, free_port, model_config

INPUT = {"x": np.zeros(1, np.float32)}
VERSIONS = "model_version_policy { specific { versions: 1 versions: 2 versions: 3 } }"


class Administered:
    """A server of the model `m`, whose version N answers x / 2 + N, with administration."""

    def __init__(self, directory: Path, version: Path, *flags: str) -> None:
        base_path = directory / "m"
        base_path.mkdir()
        for number in (1, 2, 3):
            models.add_version(base_path, number, version, offset=number)
        self.config = directory / "models.config"
        self.text = model_config({"m": base_path}, VERSIONS)
        self.config.write_text(self.text)
        self.admin_port = free_port()
        self.server = ServerProcess(
            [
                f"--model_config_file={self.config}",
                f"--admin_api_port={self.admin_port}",
                *flags,
            ],
            directory=directory,
        )
        for number in (1, 2, 3):
            self.server.wait_until_available("m", version=number)

    def admin(self, method: str, path: str, document: object = None) -> Reply:
        body = None if document is None else json.dumps(document).encode()
        return self.server.request(method, f"/v1/admin{path}", body, port=self.admin_port)

    def change(self, method: str, path: str, document: object = None) -> Any:
        reply = self.admin(method, path, document)
        assert reply.status == 200, reply.body
        return reply.json()

    def rest(self, user: str = "", where: str = "m", body: bytes = b'{"instances": [0.0]}') -> int:
        headers = {"X-User": user} if user else {}
        reply = self.server.request("POST", f"/v1/models/{where}:predict", body, headers)
        assert reply.status == 200, reply.body
        return int(reply.json()["predictions"][0])


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, half_plus_two_version: Path
) -> Iterator[Administered]:
    made = Administered(tmp_path_factory.mktemp("traffic"), half_plus_two_version)
    with made.server:
        yield made
        assert made.server.is_running, made.server.log


@pytest.fixture
def administered(served: Administered) -> Administered:
    """The server without splits, labels and shadow."""
    nothing = {"servable_options": None, "version_labels": None}
    served.change("PATCH", "/models/m", nothing)
    return served


def grpc_version(
    client: GrpcClient, administered: Administered, user: str = "", **options: Any
) -> int:
    metadata = (("x-user", user),) if user else ()
    answer = client.predict(administered.server.port, "m", INPUT, metadata=metadata, **options)
    (output,) = answer["outputs"].values()
    assert output[0] == answer["version"], "the answer names the version that ran"
    return int(answer["version"])


def test_a_canary_gets_its_part_over_both_protocols(
    administered: Administered, grpc_client: GrpcClient
) -> None:
    assert {administered.rest() for _ in range(5)} == {3}, "without a split, the latest answers"
    administered.change("PUT", "/models/m/split", {"versions": {"1": 90, "2": 10}})
    rest = Counter(administered.rest() for _ in range(400))
    grpc = Counter(grpc_version(grpc_client, administered) for _ in range(400))
    for answers in (rest, grpc):
        assert set(answers) == {1, 2}
        assert 10 <= answers[2] <= 90, answers  # 40 expected; five standard deviations are 30
    assert administered.rest(where="m/versions/3") == 3, "a version that is named is not split"
    assert grpc_version(grpc_client, administered, version=3) == 3


def test_callers_stick_to_their_version_over_both_protocols(
    administered: Administered, grpc_client: GrpcClient
) -> None:
    split = {"versions": {"1": 50, "2": 50}, "sticky_header": "X-User"}
    administered.change("PUT", "/models/m/split", split)
    users = [f"user-{number}" for number in range(20)]
    before = {user: administered.rest(user) for user in users}
    assert set(before.values()) == {1, 2}
    for user in users:
        assert administered.rest(user) == before[user]
        assert grpc_version(grpc_client, administered, user) == before[user]
    administered.change("PUT", "/models/m/split", {**split, "versions": {"1": 20, "2": 80}})
    after = {user: administered.rest(user) for user in users}
    assert all(after[user] == 2 for user in users if before[user] == 2), "none is taken from it"


def test_the_share_of_a_version_that_is_not_there_goes_to_the_others(
    administered: Administered, grpc_client: GrpcClient
) -> None:
    described = administered.change(
        "PUT", "/models/m/labels/canary/split", {"versions": {"1": 1, "9": 99}}
    )
    assert described["traffic"][0]["unavailable"] == ["9"]
    assert {administered.rest(where="m/labels/canary") for _ in range(10)} == {1}
    assert grpc_version(grpc_client, administered, label="canary") == 1
    administered.change("PUT", "/models/m/labels/canary/split", {"versions": {"9": 1}})
    with pytest.raises(RpcError, match=r"Servable not found for request: Latest\(m\)") as caught:
        grpc_client.predict(administered.server.port, "m", INPUT, label="canary")
    assert caught.value.code == "NOT_FOUND"


def test_a_label_moves(administered: Administered, grpc_client: GrpcClient) -> None:
    for version in (1, 2):
        administered.change("PUT", "/models/m/labels/stable", {"version": version})
        assert administered.rest(where="m/labels/stable") == version
        assert grpc_version(grpc_client, administered, label="stable") == version
    reply = administered.admin("PUT", "/models/m/labels/stable", {"version": 9})
    assert reply.status == 400
    assert reply.error == (
        "Request to assign label to version 9 of model m, which is not currently available for "
        "inference"
    )
    assert administered.rest(where="m/labels/stable") == 2, "the former configuration is in force"
    config = administered.change("GET", "/config")["model_config_list"]["config"][0]
    assert config["version_labels"] == {"stable": "2"}


def test_weights_change_under_load_without_a_failed_request(administered: Administered) -> None:
    stop, answers = threading.Event(), Counter[str]()

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", administered.server.port, timeout=30)
        while not stop.is_set():
            connection.request("POST", "/v1/models/m:predict", b'{"instances": [0.0]}')
            answer = connection.getresponse()
            body = answer.read()
            answers[str(json.loads(body).get("predictions", body)) + str(answer.status)] += 1
        connection.close()

    administered.change("PUT", "/models/m/split", {"versions": {"1": 1}})
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for step in range(30):
        weights = {"1": 30 - step, "2": step + 1}
        administered.change("PUT", "/models/m/split", {"versions": weights})
    stop.set()
    for thread in threads:
        thread.join()
    assert set(answers) == {"[1.0]200", "[2.0]200"}, answers


def test_a_shadow_is_compared_counted_and_never_answers(
    administered: Administered, grpc_client: GrpcClient
) -> None:
    def counts(ended: int) -> dict[str, Any]:
        end = time.monotonic() + 20
        while True:
            found: dict[str, Any] = administered.change("GET", "/models/m/shadow")
            if sum(found[key] for key in ("matched", "differed", "failed", "dropped")) >= ended:
                return found
            assert time.monotonic() < end, found
            time.sleep(0.01)

    administered.change("PUT", "/models/m/split", {"versions": {"1": 1}})
    administered.change("PUT", "/models/m/shadow", {"version": 2, "fraction": 1})
    assert {administered.rest() for _ in range(10)} == {1}
    assert {grpc_version(grpc_client, administered) for _ in range(10)} == {1}
    administered.rest(where="m/versions/3")  # requests for a version are not copied
    found = counts(20)
    assert (found["version"], found["differed"], found["matched"]) == ("2", 20, 0)
    assert "is 2, live 1" in found["last_problem"]
    # Changes of the model's other settings do not reset the counts.
    administered.change("PUT", "/models/m/labels/stable", {"version": 1})
    assert counts(20)["differed"] == 20
    administered.change("PUT", "/models/m/shadow", {"version": 9, "fraction": 1})
    administered.rest()
    administered.rest(body=b'{"instances": [0.0], "more": 1}')  # is decoded twice
    assert counts(0)["unavailable"] == 2


def test_a_model_is_loaded_and_unloaded_over_curl(administered: Administered) -> None:
    base_path = administered.config.parent / "m"
    added = administered.change("PUT", "/models/other", {"base_path": str(base_path)})
    assert [v["version"] for v in added["versions"]] == ["3"]
    assert administered.rest(where="other") == 3
    administered.change("PUT", "/models/other/versions/1")
    assert administered.rest(where="other/versions/1") == 1
    administered.change("DELETE", "/models/other")
    assert administered.server.predict("other", {"instances": [0.0]}).status == 404
    assert administered.rest() == 3


def test_the_configuration_file_wins_only_when_it_says_something_new(
    tmp_path: Path, half_plus_two_version: Path
) -> None:
    made = Administered(tmp_path, half_plus_two_version, "--model_config_file_poll_wait_seconds=1")
    with made.server:
        made.change("PUT", "/models/m/labels/stable", {"version": 1})
        # Wait for two polls: a further reload in between would have logged a line.
        time.sleep(2.2)
        assert made.rest(where="m/labels/stable") == 1
        made.config.write_text(made.text.replace('name: "m"', 'name: "n"'))
        made.server.wait_until_available("n")
        assert [m["name"] for m in made.change("GET", "/models")["models"]] == ["n"]


def test_there_is_no_administration_unless_it_is_asked_for(
    start_server: StartServer, served: Administered
) -> None:
    server = start_server({"m": served.config.parent / "m"})
    server.wait_until_available("m")
    for process in (server, served.server):
        for port in (process.port, process.rest_port):
            reply = process.get("/v1/admin/models", port=port)
            assert (reply.status, reply.error) == (
                400,
                "Malformed request: GET /v1/admin/models",
            )
