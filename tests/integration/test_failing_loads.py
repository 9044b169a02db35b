"""Failing loads under a running server: which are retried, and what their status is meanwhile."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from support import models
from support.grpc_client import GrpcClient, RpcError
from support.server_process import ServerProcess, StartServer, free_port

RETRIES = ("--max_num_load_retries=5", "--load_retry_interval_micros=600000000")
"""A retry interval longer than any test, so that a retried version stays LOADING."""


def python_version(base_path: Path, code: str) -> Path:
    """Version 1 of a Python model, with this code after its imports."""
    version = base_path / "1"
    version.mkdir(parents=True)
    head = "from servable.signature import *\nS = TensorSpec('float32', [None])\n"
    (version / "model.py").write_text(f"{head}{code}\n")
    return version


SERVES = "@serves(inputs={'x': S}, outputs={'y': S})\ndef f(inputs): return {'y': inputs['x']}\n"


def entry(name: str, base_path: Path, platform: str = "python", options: str = "") -> str:
    """The configuration of a model."""
    return (
        f'config {{ name: "{name}" base_path: "{base_path}" model_platform: "{platform}" '
        f"servable_options {{ {options} }} }}"
    )


def write_config(path: Path, *entries: str) -> str:
    """Write a configuration, and return the flag with its file."""
    path.write_text(f"model_config_list {{ {' '.join(entries)} }}")
    return f"--model_config_file={path}"


def status(server: ServerProcess, name: str) -> tuple[str, str, str]:
    """State, code and message of the only version of a model."""
    (version,) = server.get(f"/v1/models/{name}").json()["model_version_status"]
    return version["state"], version["status"]["error_code"], version["status"]["error_message"]


def test_a_load_that_waiting_cannot_help_fails_at_once(
    tmp_path: Path, half_plus_two_version: Path, start_server: StartServer
) -> None:
    """With retries after ten minutes, a load that is not retried ends at once."""
    entries = [entry("good", half_plus_two_version.parent, "tensorflow")]
    wanted = {}
    for name, code, message in (
        ("module", "import nonsense_module", "No module named 'nonsense_module'"),
        ("syntax", "def f(:", "SyntaxError"),
        ("dtype", "TensorSpec('float31')", "got dtype 'float31', want one of"),
        ("nothing", "x = 1", "neither a class Model nor a function"),
        ("signatures", "class Model:\n  signatures = {}\n  __init__ = run = print", "`signatures`"),
        ("made", "class Model:\n  def __init__(self): pass", "TypeError"),
    ):
        python_version(tmp_path / name, code)
        entries.append(entry(name, tmp_path / name))
        wanted[name] = message
    entries.append(entry("in_a_worker", tmp_path / "module", options="python { workers: 1 }"))
    wanted["in_a_worker"] = "No module named 'nonsense_module'"
    shutil.copytree(half_plus_two_version, tmp_path / "operation/1")
    graph = tmp_path / "operation/1/saved_model.pb"
    graph.write_bytes(graph.read_bytes().replace(b"Placeholder", b"PLACEHOLDER"))
    wanted["operation"] = "Op type not registered 'PLACEHOLDER'"
    models.add_corrupt_version(tmp_path / "graph", 1)
    wanted["graph"] = "Can't parse"
    for name, file in (("cut_graph", "saved_model.pb"), ("cut_variables", "variables/*.data-*")):
        shutil.copytree(half_plus_two_version, tmp_path / name / "1")
        (path,) = (tmp_path / name / "1").glob(file)
        path.write_bytes(path.read_bytes()[:-3])
        wanted[name] = "Read less bytes than requested"
    shutil.copytree(half_plus_two_version, tmp_path / "warm_up/1")
    records = tmp_path / "warm_up/1/assets.extra/tf_serving_warmup_requests"
    records.parent.mkdir()
    records.write_bytes(b"no record, but longer than the head of one")
    wanted["warm_up"] = "TFRecord"
    named = "".join(entries)
    entries += [
        entry(name, tmp_path / name, "tensorflow") for name in wanted if f'"{name}"' not in named
    ]
    config = write_config(tmp_path / "broken.config", *entries)
    server = start_server({}, config, *RETRIES)
    server.wait_until_available("good")
    for name, message in wanted.items():
        server.wait_until_state(name, 1, "END")
        _, code, status_text = status(server, name)
        assert code != "OK", name
        assert message in status_text, name
    assert server.get("/readyz").status == 200


def test_a_retried_load_reports_its_error_its_attempt_and_the_time_of_the_next(
    tmp_path: Path, half_plus_two_version: Path, start_server: StartServer, grpc_client: GrpcClient
) -> None:
    words, admin_port = tmp_path / "words.txt", free_port()
    python = python_version(tmp_path / "python", f"open('{words}').read()\n{SERVES}")
    lacking = tmp_path / "lacking/1"
    shutil.copytree(half_plus_two_version, lacking)
    (lacking / "assets/offset.txt").unlink()
    config = write_config(
        tmp_path / "retried.config",
        entry("python", python.parent),
        entry("worker", python.parent, options="python { workers: 1 }"),
        entry("lacking", lacking.parent, "tensorflow"),
    )
    server = start_server({}, config, f"--admin_api_port={admin_port}", *RETRIES)
    server.wait_until_answers()
    due = r"attempt 1 of 6 failed, the next one is due at 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ: "
    for name, reason in (
        ("python", "No such file or directory: '.*/words.txt'"),
        ("worker", "No such file or directory: '.*/words.txt'"),
        ("lacking", "offset.txt; No such file or directory"),
    ):
        for _ in server._attempts(f"{name} says nothing"):
            if server.states(name) and status(server, name)[2]:
                break
        state, code, message = status(server, name)
        assert state == "LOADING"
        assert code in ("INTERNAL", "NOT_FOUND")
        assert re.match(f"(?s){due}.*{reason}", message), message
        reply = server.predict(name, {"instances": [0.0]})
        assert reply.status == 503
        assert reply.error == (
            f"Model {name} is not available yet: version 1 failed to load: {code}: {message}"
        )
        with pytest.raises(RpcError, match=r"UNAVAILABLE: .*attempt 1 of 6 failed"):
            grpc_client.predict(server.port, name, {})
        answer = grpc_client.call("status", server.port, name)
        assert "LOADING" in str(answer)
        assert "attempt 1 of 6 failed" in str(answer)
        described = server.get(f"/v1/admin/models/{name}", port=admin_port).json()
        assert described["versions"] == [
            {
                "version": "1",
                "state": "LOADING",
                "status": {"error_code": code, "error_message": message},
            }
        ]
        index = server.request("POST", "/v2/repository/index", b"{}").json()
        assert [m["reason"] for m in index if m["name"] == name] == [message]
    ready = server.get("/readyz")
    assert ready.status == 503
    assert b"attempt 1 of 6 failed" in ready.body

    words.touch()
    shutil.copy(half_plus_two_version / "assets/offset.txt", lacking / "assets")
    (python / "changed").touch()  # a change of the version's files triggers the next attempt
    server.wait_until_available("python", "worker", "lacking")
    assert status(server, "python") == ("AVAILABLE", "OK", "")
    assert server.get("/readyz").status == 200
