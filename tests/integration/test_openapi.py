"""The OpenAPI document, and the findings of schemathesis with it."""

from __future__ import annotations

import re
import shlex
import subprocess
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from support import models
from support.outside_clients import Python
from support.server_process import ServerProcess, StartServer, model_config

SUPPORT = models.ROOT / "tests/support"
GUIDE = models.ROOT / "docs/guides/openapi.md"


def document(server: ServerProcess, *names: str) -> dict[str, Any]:
    """The document, of some models or of all."""
    query = "&".join(f"model={urllib.parse.quote(name, safe='')}" for name in names)
    reply = server.get(f"/openapi.json?{query}")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json"), reply.body
    found: dict[str, Any] = reply.json()
    return found


def url(server: ServerProcess, *names: str) -> str:
    """The path of the document for some models."""
    query = "&".join(f"model={name}" for name in names)
    return f"http://localhost:{server.rest_port}/openapi.json?{query}"


def verbs(found: dict[str, Any], model: str) -> set[str]:
    """The operations of a model, by path suffix."""
    prefix = f"/v1/models/{model}"
    return {path.removeprefix(prefix) for path in found["paths"] if path.startswith(prefix)}


def test_the_document_is_valid_and_its_examples_work(
    server: ServerProcess, clients_python: Python
) -> None:
    found = document(server)
    large = "/v1/models/large"  # whose example would be long
    predicted = {path for path in found["paths"] if path.endswith(":predict")}
    tried: list[str] = clients_python.run_json(SUPPORT / "check_openapi.py", url(server))
    tried_paths = {example.split(" ")[0] for example in tried}
    assert tried_paths == {path for path in predicted if not path.startswith(large)}
    assert "/v1/models/half_plus_two:predict serving_default, instances" in tried


def test_every_route_of_the_root_page_is_documented(server: ServerProcess) -> None:
    paths = document(server, "half_plus_two")["paths"]
    root = server.request("GET", "/", headers={"Accept": "application/json"}).json()
    for route in root["routes"]:
        if route["path"].startswith("/v2/repository"):
            continue  # administration
        is_of_server = route["path"].startswith("/v1")
        path = route["path"].replace("NAME", "half_plus_two" if is_of_server else "{model}")
        assert route["method"].lower() in paths[path], route


def test_the_list_of_models_is_as_documented(server: ServerProcess) -> None:
    schemas = document(server)["components"]["schemas"]
    listed = server.get("/v1/models").json()
    assert listed.keys() == set(schemas["ModelList"]["required"])
    item = schemas["ModelList"]["properties"]["models"]["items"]
    known = {*item["properties"], *schemas["ModelStatus"]["properties"]}
    for model in listed["models"]:
        assert {*item["required"], *schemas["ModelStatus"]["required"]} <= model.keys() <= known


def test_paths_and_schemas_follow_the_signatures(server: ServerProcess) -> None:
    found = document(server, "half_plus_two")
    own = {"", "/metadata", "/batching", ":predict", ":classify", ":regress"}
    assert verbs(found, "half_plus_two") == own | {"/versions/{version}" + verb for verb in own}
    schemas = found["components"]["schemas"]
    assert schemas["half_plus_two.serving_default.Columns"] == {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "signature_name": {"type": "string", "enum": ["serving_default"]},
            "inputs": {
                "anyOf": [
                    {"type": "array", "items": {"type": "number", "format": "float"}},
                    {
                        "type": "object",
                        "required": ["x"],
                        "properties": {
                            "x": {"type": "array", "items": {"type": "number", "format": "float"}}
                        },
                    },
                ]
            },
        },
    }
    classify = found["paths"]["/v1/models/half_plus_two:classify"]["post"]
    (names,) = (
        part["properties"]["signature_name"]["enum"]
        for part in classify["requestBody"]["content"]["application/json"]["schema"]["allOf"]
        if "properties" in part
    )
    assert names == ["classify_x_to_y"]
    infer = found["paths"]["/v2/models/{model}/versions/{version}/infer"]["post"]
    assert infer["parameters"][0] == {"$ref": "#/components/parameters/Model"}
    assert found["components"]["parameters"]["Model"]["schema"]["enum"] == ["half_plus_two"]
    assert "securitySchemes" not in found["components"]
    assert "security" not in found


@pytest.mark.timeout(240)  # more than a thousand requests, on a machine that may be busy
def test_schemathesis_finds_no_server_error(
    server: ServerProcess, clients_python: Python, tmp_path: Path
) -> None:
    done = subprocess.run(
        [
            clients_python.path.with_name("schemathesis"),
            f"--config-file={SUPPORT / 'schemathesis.toml'}",
            "run",
            url(server, "half_plus_two"),
            "--checks=not_a_server_error,status_code_conformance,content_type_conformance",
            "--phases=examples,coverage,fuzzing",
            "--max-examples=5",
            "--seed=1",
            "--no-color",
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        cwd=tmp_path,  # where it stores its results
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr
    generated = re.search(r"(\d+) generated", done.stdout)
    assert generated, done.stdout
    assert int(generated[1]) > 500, done.stdout


def test_labels_versions_and_missing_models(
    start_server: StartServer, half_plus_two_version: Path, tmp_path: Path
) -> None:
    base_path = tmp_path / "odd name"
    for version in (1, 2):
        models.add_version(base_path, version, half_plus_two_version, offset=version)
    missing = tmp_path / "missing"
    missing.mkdir()
    config = tmp_path / "models.config"
    policy = 'model_version_policy { all {} } version_labels { key: "stable" value: 1 }'
    config.write_text(model_config({"odd name": base_path, "missing": missing}, policy))
    flag = "--allow_version_labels_for_unavailable_models"
    server = start_server({}, f"--model_config_file={config}", flag)
    server.wait_until_available("odd%20name", version=2)
    server.wait_until_available("odd%20name", version=1)

    found = document(server)
    assert verbs(found, "missing") == {""}, "there is no version to tell more of"
    path = "/v1/models/odd%20name"
    (label,) = found["paths"][f"{path}/labels/{{label}}:predict"]["post"]["parameters"]
    assert label["schema"]["enum"] == ["stable"]
    (version,) = found["paths"][f"{path}/versions/{{version}}:predict"]["post"]["parameters"]
    assert version["schema"]["enum"] == [2, 1]
    # Both versions have the same signatures, which are listed once.
    assert not [name for name in found["components"]["schemas"] if name.endswith("_2")]
    assert "/v1/models/missing" not in document(server, "odd name")["paths"]

    unknown = server.get("/openapi.json?model=none")
    assert (unknown.status, unknown.error) == (404, "Could not find any versions of model none")
    crowd = server.get("/openapi.json?" + "&".join(["model=missing"] * 51))
    assert (crowd.status, crowd.error) == (400, "51 models are asked for, at most 50 can be")
    assert server.request("POST", "/openapi.json").status == 404


def test_of_many_models_the_document_stays_small(
    start_server: StartServer, tmp_path: Path, half_plus_two_version: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    served = {f"model_{number}": empty for number in range(60)}
    config = tmp_path / "models.config"
    config.write_text(model_config({**served, "half_plus_two": half_plus_two_version.parent}))
    server = start_server({}, f"--model_config_file={config}")
    server.wait_until_available("half_plus_two")
    found = document(server)
    assert len(found["paths"]) <= 32
    assert len(str(found)) < 40_000
    assert set(found["components"]["parameters"]["Model"]["schema"]["enum"]) == {
        *served,
        "half_plus_two",
    }
    assert "/v1/models/half_plus_two:predict" in document(server, "half_plus_two")["paths"]


def test_api_keys_are_documented_where_they_are_required(
    start_server: StartServer, demo_models: Path, tmp_path: Path
) -> None:
    key = "a-key-of-an-app-0123"
    keys = tmp_path / "keys.txt"
    keys.write_text(f"app:predict:{key}\n")
    server = start_server(
        {"half_plus_two": demo_models / "half_plus_two"}, f"--api_keys_file={keys}"
    )
    server.wait_until_answers()
    assert server.get("/openapi.json").status == 401
    found = server.request("GET", "/openapi.json", headers={"x-api-key": key}).json()
    assert found["components"]["securitySchemes"] == {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    assert found["security"] == [{"bearer": []}, {"header": []}]
    for path in ("/healthz", "/v2/health/ready"):
        assert found["paths"][path]["get"]["security"] == []
        assert "401" not in found["paths"][path]["get"]["responses"]
    for path in ("/openapi.json", "/v2", "/v1/models/half_plus_two"):
        assert "401" in found["paths"][path]["get"]["responses"]


def test_the_commands_of_the_guide_work(server: ServerProcess) -> None:
    commands = re.findall(r"(?m)^curl .*$", GUIDE.read_text())
    assert len(commands) == 2
    for command in commands:
        typed = command.replace("localhost:8501", f"localhost:{server.rest_port}")
        done = subprocess.run(
            [*shlex.split(typed), "-sf"], capture_output=True, check=True, timeout=60
        )
        assert done.stdout.startswith(b'{"openapi":"3.1.0"')
