from __future__ import annotations

import json

import pytest

from servable._server.admin import AdminRequest, respond
from servable._server.admin.api import Answer, AppliedError
from servable.errors import Code, NotFoundError


class Api:
    """Answers what it got; some paths fail."""

    def answer(self, request: AdminRequest) -> Answer:
        if request.path == "/missing":
            raise NotFoundError("there is none")
        if request.path == "/late":
            raise AppliedError("it failed", code=Code.DATA_LOSS)
        if request.path == "/text":
            return "text\n"
        if request.path == "/bug":
            raise RuntimeError("secret")
        return {"method": request.method, "body": request.body.decode()}


def test_answers_are_json_or_text() -> None:
    answer = respond(Api(), AdminRequest("PUT", "/x?y=z", b"hello"))
    assert (answer.code, answer.content_type) == (Code.OK, "application/json")
    assert json.loads(answer.body) == {"method": "PUT", "body": "hello"}
    answer = respond(Api(), AdminRequest("GET", "/text"))
    assert (answer.content_type, answer.body) == ("text/plain; charset=utf-8", b"text\n")


def test_errors_carry_code_and_text() -> None:
    answer = respond(Api(), AdminRequest("GET", "/missing"))
    assert answer.code == Code.NOT_FOUND
    assert json.loads(answer.body) == {"error": "there is none", "code": "NOT_FOUND"}
    answer = respond(Api(), AdminRequest("PUT", "/late"))
    assert answer.code == Code.DATA_LOSS
    assert json.loads(answer.body) == {"error": "it failed", "code": "DATA_LOSS", "applied": True}


def test_bugs_are_reported_in_the_log_only(caplog: pytest.LogCaptureFixture) -> None:
    answer = respond(Api(), AdminRequest("GET", "/bug"))
    assert answer.code == Code.INTERNAL
    assert b"secret" not in answer.body
    assert "secret" in caplog.text


def test_a_change_is_logged_also_if_a_model_fails_after_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    for method, path in (("PUT", "/x"), ("PUT", "/late"), ("PUT", "/missing"), ("GET", "/x")):
        respond(Api(), AdminRequest(method, path))
    assert caplog.messages == ["Administration: PUT /x", "Administration: PUT /late: it failed"]
