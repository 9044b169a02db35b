"""The Open Inference Protocol over REST, for requests that its own clients do not send."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from support.server_process import Reply, ServerProcess, StartServer

X = {"name": "x", "shape": [1], "datatype": "FP32"}


def post(
    server: ServerProcess, path: str, body: Any = b"", headers: dict[str, str] | None = None
) -> Reply:
    """POST to a path of the protocol."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return server.request("POST", f"/v2/{path}", data, headers or {})


def infer(server: ServerProcess, body: Any, headers: dict[str, str] | None = None) -> Reply:
    """POST an infer request to half_plus_two."""
    return post(server, "models/half_plus_two/infer", body, headers)


def with_binary(document: dict[str, Any], data: bytes) -> tuple[bytes, dict[str, str]]:
    """A body of JSON and binary data, and its required header."""
    head = json.dumps(document).encode()
    return head + data, {"Inference-Header-Content-Length": str(len(head))}


def binary_input(size: int) -> dict[str, Any]:
    """The JSON of a request with one input in binary form."""
    return {"inputs": [{**X, "parameters": {"binary_data_size": size}}]}


def test_a_compressed_body_with_binary_data_is_answered_as_binary_data_where_asked(
    server: ServerProcess,
) -> None:
    document = {**binary_input(4), "parameters": {"binary_data_output": True}}
    body, headers = with_binary(document, struct.pack("<f", 3))
    reply = infer(server, gzip.compress(body), {**headers, "Content-Encoding": "gzip"})
    assert reply.status == 200
    length = int(reply.headers["inference-header-content-length"])
    assert reply.headers["content-type"] == "application/octet-stream"
    (output,) = json.loads(reply.body[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": 4}
    assert struct.unpack("<f", reply.body[length:]) == (3.5,)


@pytest.mark.parametrize("accepted", ["gzip", "deflate", "gzip, deflate", "br"])
def test_a_long_answer_is_packed_where_one_encoding_is_asked_for(
    server: ServerProcess, accepted: str
) -> None:
    document = {"inputs": [{**X, "shape": [1000], "data": [1.0] * 1000}]}
    reply = infer(server, document, {"Accept-Encoding": accepted})
    body = reply.body
    if accepted in ("gzip", "deflate"):
        assert reply.headers["content-encoding"] == accepted
        assert len(body) < 500
        body = gzip.decompress(body) if accepted == "gzip" else zlib.decompress(body)
    else:
        assert "content-encoding" not in reply.headers
    assert json.loads(body)["outputs"][0]["data"] == [2.5] * 1000


def test_a_body_that_is_packed_in_another_way_is_refused(server: ServerProcess) -> None:
    reply = infer(server, b"{}", {"Content-Encoding": "br"})
    assert (reply.status, reply.error) == (400, 'Content-Encoding is "br", want gzip or deflate')
    reply = infer(server, b"{}", {"Content-Encoding": "deflate"})
    assert (reply.status, reply.error) == (
        400,
        "the body is not valid deflate: corrupt deflate stream",
    )


@pytest.mark.parametrize(
    ("size", "data", "header", "expected"),
    [
        (4, b"123", None, 'input "x" has a binary_data_size of 4, and 3 bytes are left'),
        (4, b"12345", None, "1 bytes of binary data belong to no input"),
        (8, b"12345678", None, 'input "x": got 8 bytes of data, want 1 elements of 4 for [1]'),
        (2**63, b"", None, f'input "x" has a binary_data_size of {2**63}, and 0 bytes are left'),
        (4, b"1234", "999", 'Inference-Header-Content-Length is "999", and the body has'),
        (4, b"1234", "-1", 'Inference-Header-Content-Length is "-1", and the body has'),
        (4, b"1234", "3", "JSON Parse error: "),
    ],
)
def test_binary_data_that_does_not_fit_is_refused_and_says_why(
    server: ServerProcess, size: int, data: bytes, header: str | None, expected: str
) -> None:
    body, headers = with_binary(binary_input(size), data)
    if header is not None:
        headers = {"Inference-Header-Content-Length": header}
    reply = infer(server, body, headers)
    assert reply.status == 400
    assert reply.error.startswith(expected)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ([], "the request has to be an object; got []"),
        ({}, 'the request has no "inputs"'),
        ({"inputs": [{**X, "data": [1, 2]}]}, 'input "x": got data of shape [2], want [1]'),
        ({"inputs": [{**X, "data": ["a"]}]}, 'input "x": JSON Value: "a" Type: String is not'),
        ({"inputs": [{**X, "data": [1]}] * 2}, 'input "x" of half_plus_two/1: it is there twice'),
        ({"inputs": []}, "input size does not match signature: 0!=1"),
        (
            {"inputs": [{**X, "data": [1]}], "outputs": [{"name": "y"}, {"name": "y"}]},
            "duplicate output tensor alias: y",
        ),
    ],
)
def test_wrong_requests_get_an_error_that_explains_them(
    server: ServerProcess, document: Any, expected: str
) -> None:
    reply = infer(server, document)
    assert reply.status == 400
    assert reply.error.startswith(expected)


def test_strings_that_are_not_text_have_to_be_asked_for_as_binary_data(
    server: ServerProcess,
) -> None:
    text = b"\xff\xfe"
    document = {
        "parameters": {"signature_name": "string"},
        "inputs": [
            {"name": "x", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}}
        ],
    }
    body, headers = with_binary(document, struct.pack("<I", 2) + text)
    reply = post(server, "models/dtypes/infer", body, headers)
    assert reply.status == 400
    assert reply.error == (
        'output "y": string 0 is not UTF-8, which JSON cannot carry; '
        "ask for binary_data, or for the content_type base64"
    )


def test_a_dtype_that_the_protocol_does_not_have_is_an_error(server: ServerProcess) -> None:
    document = {"parameters": {"signature_name": "complex64"}, "inputs": [{**X, "data": [1]}]}
    reply = post(server, "models/dtypes/infer", document)
    assert (reply.status, reply.error) == (
        400,
        'input "x" of dtypes/1: got FP32, want complex64',
    )


def test_unknown_paths_and_models_are_not_found_with_json_errors(server: ServerProcess) -> None:
    assert server.request("GET", "/v2/models").status == 404
    error = server.request("GET", "/v2/nothing?x").error
    assert error.startswith(
        "there is no /v2/nothing?x in the Open Inference Protocol; there is GET /v2, "
    )
    assert "POST /v2/models/NAME/infer" in error
    assert len(server.request("GET", f"/v2/{'x' * 5000}").error) < 1000
    error = server.request("GET", "/v2/models/no-such-model").error
    assert error.startswith("Servable not found for request: Latest(no-such-model); the models are")
    assert "half_plus_two" in error
    reply = post(server, "models/half_plus_two:predict")
    assert (reply.status, reply.headers["content-type"]) == (404, "text/html")
    reply = server.request("GET", "/v2/models/half_plus_two/infer")
    assert (reply.status, reply.headers["allow"]) == (405, "POST")
    assert post(server, "models/half_plus_two").status == 405
    assert post(server, "repository/index", headers={"Origin": "http://a.example"}).status == 403


BINARY = struct.pack("<f", 1.0)
MISSING = (
    "; the header Inference-Header-Content-Length is missing, which says how many bytes of the "
    "body are JSON where binary data follows after it"
)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (with_binary(binary_input(4), BINARY)[0], {}),
        (with_binary(binary_input(4), b"aaaa")[0], {"Content-Type": "application/json"}),
        (json.dumps(binary_input(4)).encode(), {}),
        (BINARY, {}),
        (b"aaaa", {"Content-Type": "application/octet-stream"}),
    ],
)
def test_binary_data_without_its_header_is_refused_with_the_name_of_the_header(
    server: ServerProcess, body: bytes, headers: dict[str, str]
) -> None:
    reply = infer(server, body, headers)
    assert reply.status == 400
    assert reply.error.endswith(MISSING)


def test_other_errors_do_not_speak_of_the_header(server: ServerProcess) -> None:
    assert infer(server, b"{}").error == 'the request has no "inputs"'
    body, headers = with_binary(binary_input(4), BINARY)
    del headers["Inference-Header-Content-Length"]
    headers = {"Inference-Header-Content-Length": str(len(body))}
    error = infer(server, body, headers).error
    assert error.endswith(f" (by Inference-Header-Content-Length, {len(body)} bytes are JSON)")


@pytest.mark.parametrize(
    ("signature", "datatype", "code", "values"),
    [
        (
            "float32",
            "FP32",
            "f",
            [1e-40, 1.4e-45, -1e-44, 1.17549435e-38, 1.1754942e-38, 0.1, -0.0],
        ),
        ("float64", "FP64", "d", [5e-324, -1e-310, 2.2250738585072014e-308, 0.1, -0.0]),
    ],
)
def test_json_and_binary_data_carry_the_same_numbers(
    server: ServerProcess, signature: str, datatype: str, code: str, values: list[float]
) -> None:
    raw = struct.pack(f"<{len(values)}{code}", *values)
    x = {"name": "x", "shape": [len(values)], "datatype": datatype}
    parameters = {"signature_name": signature}
    as_json = {"parameters": parameters, "inputs": [{**x, "data": values}]}
    body, headers = with_binary(
        {
            "parameters": {**parameters, "binary_data_output": True},
            "inputs": [{**x, "parameters": {"binary_data_size": len(raw)}}],
        },
        raw,
    )
    reply = post(server, "models/dtypes/infer", body, headers)
    length = int(reply.headers["inference-header-content-length"])
    assert reply.body[length:] == raw
    (output,) = post(server, "models/dtypes/infer", as_json).json()["outputs"]
    assert struct.pack(f"<{len(values)}{code}", *output["data"]) == raw


def test_members_that_are_null_are_absent(server: ServerProcess) -> None:
    x = {**X, "data": [1.0], "parameters": None}
    document: dict[str, Any] = {"id": None, "parameters": None, "outputs": None, "inputs": [x]}
    reply = infer(server, document)
    assert reply.status == 200
    assert "id" not in reply.json()
    output = {"name": "y", "parameters": {"binary_data": None}}
    document = {
        "parameters": {"signature_name": None, "timeout": None, "binary_data_output": None},
        "inputs": [{**X, "data": [1.0], "parameters": {"binary_data_size": None}}],
        "outputs": [output],
    }
    assert infer(server, document).json()["outputs"][0]["data"] == [2.5]
    document = {"ready": None, "parameters": None}
    assert post(server, "repository/index", document).status == 501, "read, and not enabled"


def test_base64_is_honoured_for_strings_and_refused_otherwise(server: ServerProcess) -> None:
    base64 = {"content_type": "base64"}
    x = {"name": "x", "shape": [1], "datatype": "BYTES", "data": ["//4="], "parameters": base64}
    document: dict[str, Any] = {"parameters": {"signature_name": "string"}, "inputs": [x]}
    document["outputs"] = [{"name": "y", "parameters": base64}]
    (output,) = post(server, "models/dtypes/infer", document).json()["outputs"]
    assert (output["data"], output["parameters"]) == (["//4="], base64)
    for change, expected in (
        ({"inputs": [{**x, "data": ["?"]}]}, 'input "x": element 0 is not base64'),
        ({"inputs": [{**X, "data": [1.0], "parameters": base64}]}, 'input "x": the content_type'),
        ({"parameters": base64}, 'the content_type "base64" belongs to the parameters of an'),
    ):
        reply = post(server, "models/dtypes/infer", {**document, **change})
        assert reply.status == 400
        assert reply.error.startswith(expected)


ROUTE_WORDS = (
    *("stats", "config", "trace", "logging", "versions", "labels", "infer", "ready", "models"),
    *("health", "repository", "index", "metadata", "batching", "load", "unload", "v1", "v2"),
    *("systemsharedmemory", "cudasharedmemory", "setting", "live", "generate", "healthz"),
)


def test_a_model_may_be_called_like_a_part_of_a_path(
    start_server: StartServer, half_plus_two_version: Path
) -> None:
    base_path = half_plus_two_version.parent
    server = start_server(dict.fromkeys(ROUTE_WORDS, base_path))
    server.wait_until_available(*ROUTE_WORDS)
    document = {"inputs": [{**X, "data": [1.0]}]}
    for name in ROUTE_WORDS:
        for path in (f"models/{name}", f"models/{name}/versions/1"):
            assert server.get(f"/v2/{path}").json()["name"] == name
            assert server.get(f"/v2/{path}/ready").json() == {"name": name, "ready": True}
            (output,) = post(server, f"{path}/infer", document).json()["outputs"]
            assert output["data"] == [2.5]
        for path in (name, f"{name}/versions/1"):
            assert server.get(f"/v1/models/{path}").json()["model_version_status"]
            assert server.get(f"/v1/models/{path}/metadata").json()["model_spec"]["name"] == name
            assert server.get(f"/v1/models/{path}/batching").json()["model_name"] == name
            assert server.predict(path, {"instances": [1.0]}).json()["predictions"] == [2.5]


def test_a_model_that_is_not_there_is_not_ready(server: ServerProcess) -> None:
    for path in ("no-such-model", "half_plus_two/versions/9"):
        reply = server.get(f"/v2/models/{path}/ready")
        assert (reply.status, reply.json()["ready"]) == (404, False)
