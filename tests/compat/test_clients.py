"""Clients that other projects wrote for TensorFlow Serving, in processes of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.outside_clients import Python
from support.server_process import ServerProcess

CLIENTS = Path(__file__).with_name("clients")
FAILED = "Error occurred during handling the request: "


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_ovmsclient_is_understood(
    protocol: str, clients_python: Python, server: ServerProcess
) -> None:
    port = server.port if protocol == "grpc" else server.rest_port
    answers: dict[str, Any] = clients_python.run_json(CLIENTS / "use_ovmsclient.py", protocol, port)

    assert answers["numbers"] == [2.5, 4.5]
    assert answers["strings"] == [1, -1]
    assert answers["status"] == {"1": {"state": "AVAILABLE", "error_code": 0, "error_message": ""}}
    if protocol == "grpc":
        assert answers["metadata"] == {
            "model_version": 1,
            "inputs": {"x": {"shape": [-1], "dtype": "DT_FLOAT"}},
            "outputs": {"y": {"shape": [-1], "dtype": "DT_FLOAT"}},
        }
    else:  # its HTTP client knows the spelling of another server, and hands on ours as it came
        signatures = answers["metadata"]["metadata"]["signature_def"]["signature_def"]
        assert signatures["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert answers["no model"] == [
        "ModelNotFoundError",
        FAILED + "Could not find version 1 of model none",
    ]
    assert answers["no version"] == [
        "ModelNotFoundError",
        FAILED + "Servable not found for request: Specific(half_plus_two, 0)",
    ]
    assert answers["wrong dtype"] == [
        "InvalidInputError",
        FAILED
        + {
            "grpc": "Expects arg[0] to be float but string is provided",
            "http": 'JSON Value: "a" Type: String is not of expected type: float',
        }[protocol],
    ]
