"""Clients of other projects for TensorFlow Serving, in separate processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from support.outside_clients import Python
from support.server_process import ServerProcess, StartServer

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
    else:  # its HTTP client knows the spelling of another server, and returns ours unchanged
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


def test_tensorflow_serving_api_is_understood(start_server: StartServer, demo_models: Path) -> None:
    base_path = demo_models / "half_plus_two"
    server = start_server({"half_plus_two": base_path})
    server.wait_until_available("half_plus_two")

    # Its stubs need TensorFlow's, which are in the environment of the tests.
    answers: dict[str, Any] = Python(Path(sys.executable)).run_json(
        CLIENTS / "use_tensorflow_serving_api.py", server.port, base_path
    )

    def model_spec(signature: str) -> dict[str, str]:
        return {"name": "half_plus_two", "version": "1", "signature_name": signature}

    regressed = {"result": {"regressions": [{"value": 2.5}, {"value": 4.5}]}}
    classified = {
        "result": {
            "classifications": [{"classes": [{"score": 2.5}]}, {"classes": [{"score": 4.5}]}]
        }
    }
    assert answers["predict"] == answers["second"] == [2.5, 4.5]
    assert answers["regress"] == {**regressed, "model_spec": model_spec("regress_x_to_y")}
    assert answers["classify"] == {**classified, "model_spec": model_spec("classify_x_to_y")}
    assert answers["multi-inference"] == {
        "results": [
            {
                "model_spec": model_spec("regress_x_to_y"),
                "regression_result": {"regressions": [{"value": 4.5}]},
            },
            {
                "model_spec": model_spec("classify_x_to_y"),
                "classification_result": {"classifications": [{"classes": [{"score": 4.5}]}]},
            },
        ]
    }
    assert answers["status"] == {
        "model_version_status": [{"version": "1", "state": "AVAILABLE", "status": {}}]
    }
    assert answers["methods"] == {
        "serving_default": "tensorflow/serving/predict",
        "classify_x_to_y": "tensorflow/serving/classify",
        "regress_x_to_y": "tensorflow/serving/regress",
    }
    assert answers["not there yet"] == [
        "NOT_FOUND",
        "Servable not found for request: Latest(second)",
    ]
    assert answers["reload"] == {"status": {}}
    assert answers["wrong signature"] == [
        "FAILED_PRECONDITION",
        'Serving signature key "none" not found.',
    ]
