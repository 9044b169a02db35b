"""Differences between an answer and the recorded one.

A difference has a signature, a text without the parts that vary between cases, so that one cause has one signature.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from support.recordings.cases import Answer, Case, recorded_bytes
from support.recordings.messages import readable_response

_SHOWN = 600
_DUMP = "goo.gle/debug"
"""The start of a message dump, whose spaces and order are random by design."""
_FUNCTION = re.compile(r"(\{\{function_node \w*?)\d+\}\}")
"""A function's name, whose number comes from the export, not from the server."""


@dataclass(frozen=True)
class Difference:
    """One difference of an answer.

    Attributes:
        level: `outcome`, `status`, `content-type`, `body`, `json`, `headers`, `code`, `message` or `response`. `json`
            and `headers` are the weaker ones: a body that is equal as JSON, or other headers.
        signature: The kind of the difference.
        expected: The beginning of the recorded answer.
        got: The beginning of the answer.
    """

    level: str
    signature: str
    expected: str = ""
    got: str = ""


def differences(case: Case, outcome: Any) -> list[Difference]:
    """The differences in the outcome of a case, or of the steps of a scenario."""
    if case["kind"] != "scenario":
        return _compare(case, case["response"], outcome)
    found: list[Difference] = []
    for number, (step, got) in enumerate(zip(case["steps"], outcome, strict=True), 1):
        prefix = f"{case['name']} step {number} ({step['do']})"
        found += [
            replace(difference, signature=f"{prefix}: {difference.signature}")
            for difference in _compare(step, step["response"], got)
        ]
    return found


def _compare(case: Case, expected: Answer, got: Answer) -> list[Difference]:
    if expected.get("outcome") in ("crash", "hang", "undefined"):
        if got.get("outcome") not in ("crash", "hang"):
            return []
        signature = f"server {got['outcome']} (TensorFlow Serving's too)"
        return [Difference("outcome", signature, "any answer", str(got))]
    if expected.get("outcome") != got.get("outcome"):
        outcomes = [each.get("outcome", "an answer") for each in (expected, got)]
        shown = [json.dumps(each)[:_SHOWN] for each in (expected, got)]
        return [Difference("outcome", " -> ".join(outcomes), *shown)]
    compared = case.get("compare", "")
    if "outcome" in expected or compared == "any":
        return []
    if "code" in expected:
        return _compare_grpc(case["method"], expected, got, compared)
    return _compare_http(expected, got, compared)


def _compare_http(expected: Answer, got: Answer, compared: str) -> list[Difference]:
    if "responses" in expected or "responses" in got:
        return _compare_connections(expected, got, compared)
    if expected["status"] != got["status"]:
        a, b = _body(expected), _body(got)
        signature = f"{expected['status']} -> {got['status']} | {_described(a)} -> {_described(b)}"
        return [Difference("status", signature, _text(a), _text(b))]
    if compared == "status":
        return []
    found = []
    types = [each["headers"].get("content-type", "") for each in (expected, got)]
    if types[0] != types[1]:
        found.append(Difference("content-type", f"{types[0]!r} -> {types[1]!r}", *types))
    found += _compare_bodies(_body(expected), _body(got), compared)
    others = _compare_headers(expected["headers"], got["headers"])
    if expected.get("reason") != got.get("reason"):
        others.append(f"reason: {expected.get('reason')} -> {got.get('reason')}")
    if others:
        found.append(Difference("headers", "; ".join(others)))
    return found


def _compare_connections(expected: Answer, got: Answer, compared: str) -> list[Difference]:
    """Compare all responses on one connection, and how it ends."""
    a, b = expected.get("responses", [expected]), got.get("responses", [got])
    if len(a) != len(b):
        signature = f"{[r.get('status') for r in a]} -> {[r.get('status') for r in b]}"
        return [Difference("status", signature, json.dumps(expected), json.dumps(got))]
    found = []
    for x, y in zip(a, b, strict=True):
        found += _compare_http(x, y, compared)
    closed = [each.get("closed") for each in (expected, got)]
    if closed[0] != closed[1]:
        found.append(Difference("headers", f"connection closed: {closed[0]} -> {closed[1]}"))
    rest = [each.get("rest", "") for each in (expected, got)]
    if rest[0] != rest[1]:
        found.append(Difference("body", "bytes after the last response", *rest))
    return found


def _compare_bodies(expected: bytes, got: bytes, compared: str) -> list[Difference]:
    errors = _error(expected), _error(got)
    if expected == got or (compared == "prefix" and _is_same_prefix(*errors)):
        return []
    is_equal_json = False
    with contextlib.suppress(ValueError, RecursionError):
        is_equal_json = _exact_json(expected) == _exact_json(got)
    if is_equal_json and compared == "json":
        return []
    if errors[0] is not None and errors[1] is not None:
        signature = f"error text | {_shape(errors[0])} -> {_shape(errors[1])}"
    else:
        what = "bytes only" if is_equal_json else "answer"
        signature = f"{what} | {_shapes_where_they_part(expected, got)}"
    level = "json" if is_equal_json else "body"
    return [Difference(level, signature, _text(expected), _text(got))]


def _compare_headers(expected: dict[str, str], got: dict[str, str]) -> list[str]:
    """The differences in headers other than `content-type`; whether a length is given must be equal."""
    found = []
    for name in sorted((expected.keys() | got.keys()) - {"content-type"}):
        values: Sequence[object] = [expected.get(name), got.get(name)]
        if name == "content-length":
            values = [value is not None for value in values]
        if values[0] != values[1]:
            found.append(f"{name}: {values[0]} -> {values[1]}")
    return found


def _compare_grpc(method: str, expected: Answer, got: Answer, compared: str) -> list[Difference]:
    def text(answer: Answer) -> str:
        if answer["code"] != "OK":
            return f"{answer['code']}: {answer.get('message', '')}"
        return readable_response(method, answer["response"].encode("latin-1"))

    if expected["code"] != got["code"]:
        statuses = [
            f"{each['code']} {_shape(each.get('message', ''))}".strip() for each in (expected, got)
        ]
        shown = [text(each)[:_SHOWN] for each in (expected, got)]
        return [Difference("code", " -> ".join(statuses), *shown)]
    if compared == "status":
        return []
    if expected["code"] != "OK":
        a, b = (_FUNCTION.sub(r"\1#}}", each["message"]) for each in (expected, got))
        if a == b or (compared == "prefix" and _is_same_prefix(a, b)):
            return []
        signature = f"{expected['code']} | {_shape(a)} -> {_shape(b)}"
        return [Difference("message", signature, a[:_SHOWN], b[:_SHOWN])]
    if expected["response"] == got["response"]:
        return []
    a, b = text(expected), text(got)
    signature = _shapes_where_they_part(a.encode(), b.encode())
    return [Difference("response", signature, a[:_SHOWN], b[:_SHOWN])]


def _shape(text: str) -> str:
    """A text without the parts that vary between cases."""
    text = re.sub(r"\d[\d.]*(e[+-]?\d+)?", "#", " ".join(text.split()))
    if len(text) > 60:
        text = re.sub(r'\\?"(?:[^"\\]|\\[^"])*\\?"', '"…"', text)
    return text if len(text) <= 110 else text[:110] + "…"


def _shapes_where_they_part(a: bytes, b: bytes) -> str:
    parting = next(
        (at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
    around = slice(max(0, parting - 24), parting + 40)
    return f"{_shape(_text(a[around]))} -> {_shape(_text(b[around]))}"


def _body(answer: Answer) -> bytes:
    body = recorded_bytes(answer, "body")
    if b"{{function_node" not in body:
        return body
    return _FUNCTION.sub(r"\1#}}", body.decode("latin-1")).encode("latin-1")


def _text(body: bytes) -> str:
    return body[:_SHOWN].decode(errors="replace")


def _described(body: bytes) -> str:
    error = _error(body)
    if error is not None:
        return "error: " + _shape(error)
    return "body: " + _shape(body[:200].decode(errors="replace"))


def _error(body: bytes) -> str | None:
    """The error text of a body."""
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(body)
        if isinstance(value, dict) and len(value) == 1 and isinstance(value.get("error"), str):
            error: str = value["error"]
            return error
    return None


def _is_same_prefix(expected: str | None, got: str | None) -> bool:
    if expected is None or got is None:
        return False
    return got.startswith(expected.partition(_DUMP)[0])


def _exact_json(body: bytes) -> object:
    """The JSON value, with numbers that compare by type and value: 1 and 1.0 differ, 1.0 and 1.00 do not."""
    return json.loads(
        body,
        parse_float=lambda text: ("float", float(text)),
        parse_int=lambda text: ("int", int(text)),
        parse_constant=lambda text: ("constant", text),
    )
