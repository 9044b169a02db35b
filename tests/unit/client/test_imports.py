"""The cost, requirements and side effects of importing the client; each in a new interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

HIDDEN = """
import sys
sys.modules[{package!r}] = None  # as if it were not installed
try:
    {code}
except ImportError as error:
    print(error)
"""
GRPC = "from servable.client import Client; Client('localhost')"
REST = "from servable.client import Client; Client('http://localhost')"


def output_of(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout


def test_no_transport_is_imported_before_an_address_asks_for_it() -> None:
    code = (
        "import sys, servable.client; print({'grpc', 'httpx', 'google.protobuf'} & {*sys.modules})"
    )
    assert output_of(code) == "set()\n"


@pytest.mark.parametrize(("package", "code"), [("numpy", GRPC), ("grpc", GRPC), ("httpx", REST)])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(package: str, code: str) -> None:
    assert "pip install 'servable[client]'" in output_of(HIDDEN.format(package=package, code=code))


@pytest.mark.parametrize("first", ["servable", "tensorflow_serving"])
def test_the_messages_of_tensorflow_serving_can_be_there_too(first: str) -> None:
    ours = "from servable.client._messages import message_class; m = message_class("
    ours += "'tensorflow.serving.PredictRequest')(output_filter=['y'])"
    theirs = "from tensorflow_serving.apis import predict_pb2"
    lines = [ours, theirs] if first == "servable" else [theirs, ours]
    lines.append(
        "print(predict_pb2.PredictRequest.FromString(m.SerializeToString()).output_filter)"
    )
    assert output_of("\n".join(lines)) == "['y']\n"
