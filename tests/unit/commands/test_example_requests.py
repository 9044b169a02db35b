from __future__ import annotations

import json
import shlex
import subprocess

import pytest

from servable._server.commands.example_requests import curl, python
from servable.loaders._description import SignatureDescription, TensorDescription

URL = "http://host:1"


def signature(**inputs: TensorDescription) -> SignatureDescription:
    return SignatureDescription("predict", inputs, {})


def test_a_small_request_is_written_out() -> None:
    command = curl(
        URL,
        "m",
        "serving_default",
        signature(x=TensorDescription("float32", (None, 2)), n=TensorDescription("int32", ())),
    )
    assert command == (
        """curl -d '{"inputs": {"x": [[1.0, 1.0]], "n": 1}}' http://host:1/v1/models/m:predict"""
    )


def test_a_large_request_is_made_where_it_is_sent() -> None:
    image = TensorDescription("float32", (None, 224, 224, 3))
    flag = TensorDescription("bool", None)
    command = curl(URL, "it's", "other", signature(image=image, flag=flag))
    assert command is not None
    make, _, send = command.partition(" |\n  ")
    assert shlex.split(send) == ["curl", "-d", "@-", "http://host:1/v1/models/it's:predict"]
    made = subprocess.run(shlex.split(make), capture_output=True, check=True).stdout
    document = json.loads(made)
    assert document["signature_name"] == "other"
    assert document["inputs"]["flag"] == [True]
    assert document["inputs"]["image"] == [[[[1.0] * 3] * 224] * 224]


def test_signatures_without_a_json_form_have_no_curl_command() -> None:
    half = signature(x=TensorDescription("float16", (None,)))
    assert curl(URL, "m", "serving_default", half) is None
    assert "np.ones((1,), np.float16)" in python("host:1", "m", "serving_default", half)


@pytest.mark.parametrize("method", ["classify", "regress"])
def test_examples_have_the_features_of_the_graph(method: str) -> None:
    known = SignatureDescription(method, {}, {}, {"x": 1.0})
    command = curl(URL, "m", "s", known)
    assert command == (
        """curl -d '{"signature_name": "s", "examples": [{"x": 1.0}]}' """
        f"http://host:1/v1/models/m:{method}"
    )
    assert f"client.{method}('m', [{{'x': 1.0}}], signature='s')" in python(URL, "m", "s", known)


def test_an_example_program_is_minimal() -> None:
    text = signature(t=TensorDescription("bytes", (None,)))
    assert python("host:1", "m", "serving_default", text) == (
        "from servable.client import Client\n\n"
        "with Client('host:1') as client:\n    print(client.predict('m', {'t': [\"text\"]}))"
    )
