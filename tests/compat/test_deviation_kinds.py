"""A cause is a class of differences: each of its members is recognised, whether recorded before or not.

Members are generated and sent to a server. The answers are compared with those of TensorFlow Serving, as far as its
facts determine them.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

import pytest

from support import conformance
from support.recordings.compare import differences
from support.server_process import ServerProcess

PAGE = "<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n</BODY></HTML>\n"
CAUSES = conformance.read_causes()


def causes_of(server: ServerProcess, request: str, expected: dict[str, Any]) -> set[str | None]:
    """The cause of the difference between the answer and the expected one; empty if they are equal."""
    line, _, body = request.partition("\r\n\r\n")
    method, target, _ = line.split(" ")
    reply = server.request(method, target, body.encode() or None)
    got = {
        "status": reply.status,
        "reason": HTTPStatus(reply.status).phrase,
        "headers": {name.lower(): v for name, v in reply.headers.items() if name != "date"},
        "body": reply.body.decode(),
    }
    case = {
        "id": "unseen",
        "group": "unseen",
        "kind": "rest",
        "send": request,
        "response": expected,
    }
    found: set[str | None] = set()
    for difference in differences(case, got):
        finding = conformance.from_recording(case, asdict(difference), conformance.asked_by(case))
        explained = [cause.name for cause in CAUSES if cause.explains(finding)]
        found.add(explained[0] if explained else None)
    return found


def answer(status: int, body: str, kind: str = "application/json") -> dict[str, Any]:
    """An answer of TensorFlow Serving."""
    reasons = {200: "OK", 400: "Bad Request", 404: "Not Found"}
    headers = {"content-type": kind, "content-length": str(len(body))}
    return {"status": status, "reason": reasons[status], "headers": headers, "body": body}


def error(status: int, text: str) -> dict[str, Any]:
    """An error of its REST API."""
    return answer(status, f'{{\n    "error": {json.dumps(text)}\n}}')


def not_found() -> dict[str, Any]:
    """Its page for a path outside of the API."""
    page = answer(404, PAGE, "text/html")
    page["headers"]["connection"] = "close"
    return page


NARROW = {"int8": 8, "uint8": 8, "int16": 16}


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("value", [300_000, -40_000, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize(
    "document",
    [
        '"instances": [VALUE]',
        '"instances": [{"x": VALUE}]',
        '"instances": [[[1, VALUE]]]',
        '"inputs": VALUE',
        '"inputs": {"x": [[VALUE]]}',
        '"inputs": [[[1], [2], [VALUE]]]',
    ],
)
def test_narrow_integers(server: ServerProcess, dtype: str, value: int, document: str) -> None:
    body = f'{{"signature_name": "{dtype}", {document.replace("VALUE", str(value))}}}'
    low = value % 2 ** NARROW[dtype]
    wrapped = low if dtype[0] == "u" or low < 2 ** (NARROW[dtype] - 1) else low - 2 ** NARROW[dtype]
    expected = answer(200, f'{{\n    "predictions": [{wrapped}\n    ]\n}}')
    request = f"POST /v1/models/dtypes:predict HTTP/1.1\r\n\r\n{body}"
    assert causes_of(server, request, expected) == {"small-integers"}


GET_ROUTES = (
    "/v1/models/half_plus_two",
    "/v1/models/half_plus_two/metadata",
    "/v1/models/half_plus_two/versions/1",
    "/v1/models/half_plus_two/versions/1/metadata",
    "/v1/models/half_plus_two/labels/stable",
    "/v1/models/none/metadata",
)
POST_ROUTES = (
    *("/v1/models/half_plus_two:predict", "/v1/models/half_plus_two:classify"),
    *("/v1/models/half_plus_two/versions/1:predict", "/v1/models/none:regress"),
)


@pytest.mark.parametrize(
    ("method", "route"),
    [*(("GET", route) for route in GET_ROUTES), *(("POST", route) for route in POST_ROUTES)],
)
@pytest.mark.parametrize("tail", ["?", "?x=1", "?key=a:b&c", "#part", "?x#y"])
def test_queries_and_fragments(server: ServerProcess, method: str, route: str, tail: str) -> None:
    target = route + tail
    body = '\r\n\r\n{"instances": [1.0]}' if method == "POST" else "\r\n\r\n"
    name = target.removeprefix("/v1/models/")
    for expected in (
        error(400, f"Malformed request: {method} {target}"),
        error(404, f"Could not find any versions of model {name}"),
    ):
        request = f"{method} {target} HTTP/1.1{body}"
        assert causes_of(server, request, expected) <= {"query-string"}


@pytest.mark.parametrize(
    ("cause", "path"),
    [
        *(("health-paths", path) for path in ("/healthz", "/readyz")),
        *(("open-inference-protocol", path) for path in ("/v2", "/v2/models/x", "/v2/health/live")),
        *(("open-inference-protocol", path) for path in ("/v2/models/x/infer", "/v2/none")),
        ("openapi", "/openapi.json"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
def test_paths_that_tensorflow_serving_does_not_have(
    server: ServerProcess, method: str, path: str, cause: str
) -> None:
    """Other methods are 405 here if the path has methods at all."""
    request = f"{method} {path} HTTP/1.1\r\n\r\n"
    assert causes_of(server, request, not_found()) <= {cause}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        *(
            (target, error(400, f"Malformed request: HEAD {target}"))
            for target in ("/v1/models/half_plus_two", "/v1/models/none/metadata", "/v1/x")
        ),
        ("/nothing", not_found()),
    ],
)
def test_answers_to_head(server: ServerProcess, target: str, expected: dict[str, Any]) -> None:
    request = f"HEAD {target} HTTP/1.1\r\n\r\n"
    assert causes_of(server, request, expected) <= {"head-without-body", "content-length"}


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", f"/v1/models/half_plus_two/versions/{2**64 - 1}"),
        ("GET", f"/v1/models/none/versions/{2**70}/metadata"),
        ("POST", f"/v1/models/half_plus_two/versions/{10**30}:predict"),
        ("POST", f"/v1/models/none/versions/{10**30}:classify"),
    ],
)
def test_versions_beyond_64_bits(server: ServerProcess, method: str, target: str) -> None:
    request = f"{method} {target} HTTP/1.1\r\n\r\n" + ("{}" if method == "POST" else "")
    assert causes_of(server, request, answer(400, "")) == {"version-overflow"}
