"""The examples of the canary guide and of the administration API's reference, run as written."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from support import models
from support.models import ROOT
from support.server_process import ServerProcess, free_port

CANARY = ROOT / "docs/guides/canary.md"
REFERENCE = ROOT / "docs/reference/admin-api.md"


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", document.read_text())


class Reader:
    """Runs the server of the examples, and executes their commands."""

    def __init__(self, directory: Path, version: Path) -> None:
        self._directory = directory
        base_path = directory / "half_plus_two"
        base_path.mkdir()
        for number in (3, 4):
            models.add_version(base_path, number, version, offset=number)
        (config,) = blocks(CANARY, "text")
        (directory / "models.config").write_text(config.replace("/models/", f"{directory}/"))
        self._admin_port = free_port()
        self.server: ServerProcess | None = None

    def type(self, block: str) -> Sequence[str]:
        """Execute the commands of a block; returns their answers."""
        lines = block.replace("\\\n", " ").strip().splitlines()
        return [answer for line in lines if (answer := self._type(line)) is not None]

    def _type(self, line: str) -> str | None:
        program, *arguments = shlex.split(line)
        if program == "servable":
            self._serve(arguments)
            return None
        assert program == "curl"
        assert self.server is not None
        for port, real in (("8500", self.server.port), ("8590", self._admin_port)):
            line = line.replace(f"localhost:{port}", f"127.0.0.1:{real}")
        done = subprocess.run(
            [
                "bash",
                "-c",
                line.replace('/models/half_plus_two"', f'{self._directory}/half_plus_two"'),
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert '"error"' not in done.stdout, (line, done.stdout)
        self._wait_while_versions_load()
        return done.stdout

    def _wait_while_versions_load(self) -> None:
        """Wait like a reader who types: a model may be there before its next version is available."""
        assert self.server is not None
        deadline = time.monotonic() + 60
        while any(
            state in self.server.get(f"/v1/models/{model}").body
            for model in ("half_plus_two", "second")
            for state in (b'"START"', b'"LOADING"')
        ):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def _serve(self, arguments: Sequence[str]) -> None:
        own = [f"--admin_api_port={self._admin_port}"]
        own += [f"--model_config_file={self._directory / 'models.config'}"]
        names = {flag.partition("=")[0] for flag in own} | {"--port"}
        assert {argument.partition("=")[0] for argument in arguments} == names
        self.server = ServerProcess(own, directory=self._directory)
        self.server.wait_until_available("half_plus_two", version=3)
        self.server.wait_until_available("half_plus_two", version=4)


@pytest.fixture
def reader(tmp_path: Path, half_plus_two_version: Path) -> Reader:
    return Reader(tmp_path, half_plus_two_version)


def test_the_examples_of_the_guide_to_canaries(reader: Reader) -> None:
    answers = [answer for block in blocks(CANARY, "sh") for answer in reader.type(block)]
    assert reader.server is not None
    with reader.server:
        predicted, split, _, _, _, shadow = answers
        assert json.loads(predicted)["predictions"] in ([3.5], [4.5])
        assert json.loads(split)["traffic"][0]["shares"] == {"3": 0.5, "4": 0.5}
        assert json.loads(shadow)["version"] == "4"


def test_the_examples_of_the_reference(reader: Reader) -> None:
    answers = [answer for block in blocks(REFERENCE, "sh") for answer in reader.type(block)]
    assert reader.server is not None
    with reader.server:
        added, labelled, moved, unloaded, loaded, text, removed = answers
        assert json.loads(added)["config"]["model_version_policy"] == {
            "latest": {"num_versions": 2}
        }
        assert json.loads(labelled)["config"]["version_labels"] == {"stable": "3"}
        assert json.loads(moved)["config"]["version_labels"] == {"stable": "4"}
        states = {v["version"]: v["state"] for v in json.loads(unloaded)["versions"]}
        assert states["4"] == "AVAILABLE"
        assert states["3"] in ("UNLOADING", "END")
        states = {v["version"]: v["state"] for v in json.loads(loaded)["versions"]}
        assert states == {"3": "AVAILABLE", "4": "AVAILABLE"}
        assert 'name: "second"' in text
        assert json.loads(removed) == {}
        (error,) = blocks(REFERENCE, "json")
        (port,) = re.findall(r"Administration API on \S+:(\d+)", reader.server.log)
        reply = reader.server.get("/v1/admin/models/none", port=int(port))
        assert (reply.status, reply.json()) == (404, json.loads(error))
