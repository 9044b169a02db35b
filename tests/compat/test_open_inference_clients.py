"""The Open Inference Protocol with clients of other projects, in separate processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.outside_clients import Python
from support.server_process import ServerProcess, StartServer, free_port

CLIENTS = Path(__file__).with_name("clients")
NOT_FOUND = {"grpc": "NOT_FOUND", "http": "404"}
INVALID_ARGUMENT = {"grpc": "INVALID_ARGUMENT", "http": "400"}


@pytest.fixture(params=["grpc", "http"])
def protocol(request: pytest.FixtureRequest) -> str:
    """Each of the two protocols in turn."""
    return str(request.param)


def port_of(server: ServerProcess, protocol: str) -> int:
    """The usual port of a protocol."""
    return server.port if protocol == "grpc" else server.rest_port


def test_tritonclient_is_understood(
    protocol: str, clients_python: Python, server: ServerProcess
) -> None:
    program, port = CLIENTS / "use_tritonclient.py", port_of(server, protocol)
    answers: dict[str, Any] = clients_python.run_json(program, protocol, port)

    for question in ("live", "ready", "model ready", "version ready"):
        assert answers[question] is True, question
    assert answers["server"]["name"] == "servable"
    assert answers["server"]["extensions"] == ["binary_tensor_data"]
    size = "-1" if protocol == "grpc" else -1
    assert answers["model"] == {
        "name": "half_plus_two",
        "versions": ["1"],
        "platform": "tensorflow_savedmodel",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [size]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [size]}],
    }
    assert answers["numbers"] == answers["in time"] == [2.5, 3.25]
    assert answers["packed"] == [True, True]
    assert answers["several"] == {
        "id": "request 7",
        "model": ["multiple", "1"],
        "outputs": ["twice", "joined"],
        "twice": [4],
        "joined": ["ab"],
    }
    assert len(answers["echoed"]) == 13
    assert all(answers["echoed"].values()), answers["echoed"]
    assert answers["bfloat16"] == [0x3F80, 0x4000]
    assert answers["is another model ready"] is False
    if protocol == "http":
        assert all(answers["echoed as JSON"].values()), answers["echoed as JSON"]

    missing, invalid = NOT_FOUND[protocol], INVALID_ARGUMENT[protocol]
    prefix = "StatusCode." if protocol == "grpc" else ""
    for question, code, text in [
        ("no model", missing, "Servable not found for request: Latest(none)"),
        ("no version", missing, "Servable not found for request: Specific(half_plus_two, 7)"),
        ("no label", invalid, "Unrecognized servable version label: stable"),
        ("no input", invalid, "Signature input alias: x(feed name: x:0) not found in request"),
        ("wrong datatype", invalid, 'input "x" of half_plus_two/1: got FP64, want FP32'),
        ("wrong shape", invalid, 'input "x" of half_plus_two/1: got shape [1,1], want [-1]'),
        ("no output", invalid, "output tensor alias not found in signature: z"),
        (
            "no signature",
            "FAILED_PRECONDITION" if protocol == "grpc" else "400",
            'there is no signature "z"; there are: classify_x_to_y, regress_x_to_y, serving_default',
        ),
        (
            "too late",
            "DEADLINE_EXCEEDED" if protocol == "grpc" else "504",
            "Timed out waiting for notification",
        ),
        (
            "no statistics",
            "UNIMPLEMENTED" if protocol == "grpc" else "501",
            'the extension "statistics" is not available; the metrics page has the figures',
        ),
        (
            "no configuration",
            "UNIMPLEMENTED" if protocol == "grpc" else "501",
            'the extension "model_configuration" is not available; the metadata of a model',
        ),
        (
            "no repository",
            "UNIMPLEMENTED" if protocol == "grpc" else "501",
            "the model repository is not enabled; start the server with --admin_api_port",
        ),
    ]:
        status, message = answers[question]
        assert status == prefix + code, question
        assert message.startswith(text), question


def test_kserve_is_understood(protocol: str, clients_python: Python, server: ServerProcess) -> None:
    program, port = CLIENTS / "use_kserve.py", port_of(server, protocol)
    answers: dict[str, Any] = clients_python.run_json(program, protocol, port)

    assert answers["live"] is True
    assert answers["ready"] is True
    assert answers["model ready"] is True
    assert [answers["id"], answers["model"]] == ["request 7", "half_plus_two"]
    assert answers["numbers"] == [2.5, 3.25]
    assert answers["words"] == [1, -1]
    assert len(answers["echoed"]) == 12
    assert all(answers["echoed"].values()), answers["echoed"]
    no_model = [NOT_FOUND[protocol], "Servable not found for request: Latest(none)"]
    assert answers["another model"] is False
    status, message = answers["no model"]
    assert [status, message.partition(";")[0]] == no_model
    wrong = [INVALID_ARGUMENT[protocol], 'input "x" of half_plus_two/1: got FP64, want FP32']
    assert answers["wrong datatype"] == wrong
    wrong = [INVALID_ARGUMENT[protocol], 'input "x" of half_plus_two/1: got shape [1,1], want [-1]']
    assert answers["wrong shape"] == wrong
    if protocol == "http":
        assert all(answers["echoed as JSON"].values()), answers["echoed as JSON"]
        assert answers["chosen"] == [2.5, 3.25]


def test_tritonclient_loads_and_unloads_models_where_administration_is_enabled(
    protocol: str, clients_python: Python, start_server: StartServer, demo_models: Path
) -> None:
    served = {"half_plus_two": demo_models / "half_plus_two"}
    server = start_server(served, f"--admin_api_port={free_port()}")
    server.wait_until_available("half_plus_two")
    answers: dict[str, Any] = clients_python.run_json(
        CLIENTS / "use_triton_repository.py",
        protocol,
        port_of(server, protocol),
        demo_models / "half_plus_two_tf2",
    )
    ready = ["half_plus_two", "1", "READY"]
    assert answers["at first"] == [ready]
    index, message = answers["unloaded"]
    assert [entry[2] for entry in index] in (["UNAVAILABLE"], ["UNLOADING"])
    assert message == "Servable not found for request: Latest(half_plus_two)"
    assert answers["ready"] == [False, False]
    assert answers["twice"] == "Model half_plus_two is not configured"
    assert answers["loaded"] == [[ready], [2.5]]
    assert answers["unknown"].startswith("Model new is not in the repository")
    assert answers["broken"].startswith("The configuration is not JSON")
    assert answers["new"] == [[ready, ["new", "1", "READY"]], [2.5]]
