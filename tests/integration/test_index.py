"""Pages for visitors: `GET /`, the list of models, and unknown paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support import models
from support.server_process import ServerProcess, StartServer

PLAIN = "text/plain; charset=utf-8"


def get(server: ServerProcess, path: str, accept: str | None = None, method: str = "GET") -> Any:
    headers = {} if accept is None else {"Accept": accept}
    return server.request(method, path, headers=headers)


@pytest.mark.parametrize("accept", [None, "*/*", "text/plain", "text/html,*/*;q=0.8", "image/png"])
def test_the_root_says_what_this_is_in_plain_text(
    server: ServerProcess, accept: str | None
) -> None:
    reply = get(server, "/?a=b", accept)
    assert (reply.status, reply.headers["content-type"]) == (200, PLAIN)
    text = reply.body.decode()
    assert text.startswith("Servable ")
    assert "half_plus_two" in text
    assert "POST  /v1/models/NAME:predict" in text


def test_the_root_is_json_where_that_is_asked_for(server: ServerProcess) -> None:
    reply = get(server, "/", "application/json")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    document = reply.json()
    assert document["name"] == "servable"
    assert "half_plus_two" in document["models"]
    assert {"method", "path", "what"} == set(document["routes"][0])


def test_each_route_that_is_named_is_there(server: ServerProcess) -> None:
    for route in get(server, "/", "application/json").json()["routes"]:
        path = route["path"].replace("NAME", "half_plus_two")
        body = b"{}" if route["method"] == "POST" else None
        status = server.request(route["method"], path, body).status
        # Malformed bodies are refused, and administration is disabled.
        assert status == {"/v2/repository/index": 501}.get(path, 400 if body else 200), path


def test_models_are_listed_with_their_versions(
    start_server: StartServer, half_plus_two_version: Path, tmp_path: Path
) -> None:
    models.add_corrupt_version(tmp_path / "broken", 3)
    served = {"good": half_plus_two_version.parent, "broken": tmp_path / "broken"}
    server = start_server(served)
    server.wait_until_available("good")
    server.wait_until_state("broken", 3, "END")
    for path in ("/v1/models", "/v1/models/", "/V1/Models", "/v1/models?x=y"):
        reply = server.get(path)
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
        broken, good = reply.json()["models"]
        assert good == {
            "name": "good",
            "model_version_status": server.get("/v1/models/good").json()["model_version_status"],
        }
        assert broken["name"] == "broken"
        (version,) = broken["model_version_status"]
        assert (version["version"], version["state"]) == ("3", "END")
        assert version["status"]["error_message"]
    for method in ("POST", "HEAD", "DELETE"):
        assert server.request(method, "/v1/models").status == 400


def test_an_unknown_path_gets_the_list_of_paths(server: ServerProcess) -> None:
    page = get(server, "/nothing")
    assert (page.status, page.headers["content-type"]) == (404, "text/html")
    text = get(server, "/nothing", "*/*")
    assert (text.status, text.headers["content-type"]) == (404, PLAIN)
    assert text.body.startswith(b"there is no GET /nothing\n\nModels: ")
    assert b"POST  /v1/models/NAME:predict" in text.body
    document = get(server, "/nothing", "application/json", "PUT").json()
    assert document["error"].startswith("there is no PUT /nothing; there is GET /v1/models, ")
    assert "half_plus_two" in document["models"]
    assert len(get(server, "/" + "x" * 10_000, "*/*").body) < 4000


def test_only_the_first_of_many_models_are_named(
    start_server: StartServer, half_plus_two_version: Path
) -> None:
    names = [f"model{number:02}" for number in range(25)] + ["x" * 150]
    server = start_server(dict.fromkeys(names, half_plus_two_version.parent))
    server.wait_until_available(*names)
    document = get(server, "/", "application/json").json()
    assert (document["models"], document["further_models"]) == (names[:20], 6)
    assert b"model19 and 6 more\n" in get(server, "/", "*/*").body
    assert server.get("/v2/models/none").error.endswith("model19 and 6 more")
    assert len(server.get("/v1/models").json()["models"]) == len(names)


def test_with_keys_the_list_needs_one_as_the_status_does(
    start_server: StartServer, half_plus_two_version: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("app:predict:app-key-0123456789\n")
    server = start_server({"m": half_plus_two_version.parent}, f"--api_keys_file={keys}")
    server.wait_until_answers()
    key = {"Authorization": "Bearer app-key-0123456789"}
    for path in ("/", "/v1/models", "/nothing", "/v1/models/m"):
        assert server.get(path).status == 401
        assert server.request("GET", path, headers=key).status != 401
