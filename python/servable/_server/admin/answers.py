"""Answers of the administration API as documents: the result of a request, or its error."""

from __future__ import annotations

import json
import logging
from typing import Any, Protocol

from servable._server.admin.api import AdminRequest, Answer, AppliedError
from servable._server.border.control_plane import AdminAnswer
from servable.errors import Code, ServableError

_log = logging.getLogger(__name__)


class Api(Protocol):
    """Executes requests."""

    def answer(self, request: AdminRequest) -> Answer:
        """Execute one request, or raise the client's error."""


def respond(api: Api, request: AdminRequest) -> AdminAnswer:
    """Execute a request, log changes, and never raise."""
    try:
        answer = api.answer(request)
    except ServableError as error:
        document: dict[str, Any] = {"error": error.message, "code": error.code.name}
        if isinstance(error, AppliedError):
            document["applied"] = True
            _log.warning("Administration: %s %s: %s", request.method, request.path, error.message)
        return _document(document, error.code)
    except Exception:
        _log.exception("A request for administration failed")
        problem = {"error": "internal error; see the log", "code": Code.INTERNAL.name}
        return _document(problem, Code.INTERNAL)
    if request.method != "GET":
        _log.info("Administration: %s %s", request.method, request.path)
    if isinstance(answer, str):
        return AdminAnswer(Code.OK, "text/plain; charset=utf-8", answer.encode())
    return _document(answer, Code.OK)


def _document(document: dict[str, Any], code: Code) -> AdminAnswer:
    body = json.dumps(document, indent=2) + "\n"
    return AdminAnswer(code, "application/json", body.encode())
