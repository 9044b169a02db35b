"""Checks the OpenAPI document of a server and tries its examples; runs in the environment of outside clients.

usage: check_openapi.py URL-OF-THE-DOCUMENT

Prints the names of the tried examples. Any error ends it with an exception.
"""

from __future__ import annotations

import json
import sys
import urllib.parse
import urllib.request
from typing import Any

import jsonschema_rs
from schemathesis.specs.openapi.definitions import OPENAPI_31


def ask(url: str, body: object = None) -> Any:
    """GET a document, or POST one for another."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(url, data, timeout=30) as reply:
        return json.load(reply)


class Checker:
    """One document and its server.

    Attributes:
        document: The document as received.
        tried: The path and the name of every example.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.document: dict[str, Any] = ask(url)
        self.tried: list[str] = []

    def check_form(self) -> None:
        """Check the rules for every document of OpenAPI 3.1."""
        jsonschema_rs.validator_for(OPENAPI_31).validate(self.document)
        for schema in self.document["components"]["schemas"].values():
            jsonschema_rs.meta.validate(schema)
            self.accepts(schema)  # every reference resolves
        ids = [operation["operationId"] for _, operation in self.operations()]
        assert len(set(ids)) == len(ids), ids

    def accepts(self, schema: Any) -> jsonschema_rs.Draft202012Validator:
        """A validator for a schema of the document."""
        whole = {**schema, "components": self.document["components"]}
        return jsonschema_rs.Draft202012Validator(whole)

    def operations(self) -> list[tuple[str, dict[str, Any]]]:
        """Every operation with its path."""
        paths = self.document["paths"].items()
        return [(path, operation) for path, item in paths for operation in item.values()]

    def target(self, path: str, operation: dict[str, Any]) -> str:
        """The path of an operation, with a value for each of its parameters."""
        values = {}
        for parameter in operation.get("parameters", ()):
            if "$ref" in parameter:
                name = parameter["$ref"].rpartition("/")[2]
                parameter = self.document["components"]["parameters"][name]
            values[parameter["name"]] = parameter["schema"].get("enum", [1])[0]
        return urllib.parse.urljoin(self.url, path.format(**values))

    def try_examples(self) -> None:
        """Send every request and every example; they and the answers must match the schemas."""
        for path, operation in self.operations():
            target = self.target(path, operation)
            answer = operation["responses"]["200"]["content"]
            if "application/json" in answer and "requestBody" not in operation:
                self.accepts(answer["application/json"]["schema"]).validate(ask(target))
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            for name, example in body.get("examples", {}).items():
                self.accepts(body["schema"]).validate(example["value"])
                found = ask(target, example["value"])
                self.accepts(answer["application/json"]["schema"]).validate(found)
                self.tried.append(f"{path} {name}")


def main() -> None:
    """Check everything."""
    checker = Checker(sys.argv[1])
    checker.check_form()
    checker.try_examples()
    print(json.dumps(checker.tried))


if __name__ == "__main__":
    main()
