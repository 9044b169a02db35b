"""A client of the administration API, for the chaos run."""

from __future__ import annotations

import contextlib
import http.client
import json
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import json_format, text_format

from servable._server.config.text_proto import new_message
from world import Model

PREFIX = "/v1/admin"
TIMEOUT_SECONDS = 90.0


@dataclass(frozen=True)
class Call:
    """A request, and its expected answer.

    Attributes:
        what: A description for messages.
        method: The HTTP method.
        path: The path, relative to the prefix.
        body: The JSON document, or an invalid body.
        codes: The expected canonical codes; `OK` for a success.
        is_applied: Whether the configuration changes although the request fails.
        headers: Additional headers.
    """

    what: str
    method: str
    path: str
    body: Any = None
    codes: frozenset[str] = frozenset({"OK"})
    is_applied: bool = False
    headers: dict[str, str] = field(default_factory=dict)


HTTP_STATUS = {
    "OK": 200,
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "UNKNOWN": 500,
    "INTERNAL": 500,
    "DATA_LOSS": 500,
    "UNIMPLEMENTED": 501,
    "OUT_OF_RANGE": 400,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


class Administration:
    """Calls the API and checks its answers."""

    def __init__(self, port: int) -> None:
        """Set the port; connects on demand."""
        self._port = port

    def send(self, call: Call) -> tuple[str | None, str]:
        """Send a request.

        Returns:
            The error in the answer, if it has one, and its code.
        """
        body = call.body if isinstance(call.body, (bytes, type(None))) else json.dumps(call.body)
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_SECONDS)
        with contextlib.closing(connection):
            try:
                connection.request(call.method, PREFIX + call.path, body, call.headers)
                reply = connection.getresponse()
                document = json.loads(reply.read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                return f"{call} broke: {error!r}", "BROKEN"
        code = "OK" if reply.status == 200 else document.get("code", f"HTTP {reply.status}")
        is_right = (
            code in call.codes
            and reply.status == HTTP_STATUS.get(code)
            and (code == "OK" or document.get("applied", False) == call.is_applied)
            and (code == "OK" or isinstance(document.get("error"), str))
        )
        return None if is_right else f"{call} was answered {reply.status} {document}", code

    def shadow(self, model: Model) -> dict[str, Any]:
        """The counts of copies for a model's shadow."""
        return self._get(f"/models/{model.name}/shadow")

    def configuration(self) -> list[Any]:
        """The entries of the current configuration, in a canonical form."""
        document = self._get("/config")
        return sorted(map(canonical, document["model_config_list"].get("config", [])), key=str)

    def _get(self, path: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", PREFIX + path)
            document: dict[str, Any] = json.loads(connection.getresponse().read())
            return document


def entry_json(model: Model) -> dict[str, Any]:
    """The entry of a model, as JSON."""
    config: Any = new_message("tensorflow.serving.ModelServerConfig")
    text_format.Parse(f"model_config_list {{ {model.entry()} }}", config)
    (entry,) = config.model_config_list.config
    document: dict[str, Any] = json_format.MessageToDict(entry, preserving_proto_field_name=True)
    return document


def expected_configuration(models: list[Model]) -> list[Any]:
    """The expected result of `Administration.configuration`."""
    entries = (canonical(entry_json(model)) for model in models if model.is_configured)
    return sorted(entries, key=str)


def canonical(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry in canonical form."""
    options = entry.get("servable_options", {})
    policy = entry.get("model_version_policy", {"latest": {"num_versions": 1}})
    splits = {
        split.get("label", ""): (
            sorted((each["version"], each.get("weight", 0)) for each in split["versions"]),
            split.get("sticky_header", ""),
        )
        for split in options.get("traffic_splits", [])
    }
    return {
        "name": entry["name"],
        "base_path": entry["base_path"],
        "model_platform": entry["model_platform"],
        "policy": {
            kind: sorted(value.get("versions", [])) or value.get("num_versions")
            for kind, value in policy.items()
        },
        "labels": sorted(entry.get("version_labels", {}).items()),
        "splits": sorted(splits.items()),
        "shadow": options.get("shadow"),
        "keep_last_version": options.get("keep_last_version", False),
        "labels_when_available": options.get("labels_when_available", False),
        "workers": options.get("python", {}).get("workers", 0),
    }
