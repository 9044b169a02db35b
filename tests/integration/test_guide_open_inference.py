"""The examples of the Open Inference Protocol guide, run as written."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

from support.models import ROOT
from support.server_process import ServerProcess, StartServer, free_port

GUIDE = ROOT / "docs/guides/open_inference_protocol.md"


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", GUIDE.read_text())


def typed(command: str, server: ServerProcess, demo_models: Path) -> str:
    """The answer to a `curl` command of the guide."""
    line = command.replace("localhost:8501", f"127.0.0.1:{server.rest_port}")
    line = line.replace("/models/half_plus_two\\", f"{demo_models}/half_plus_two\\")
    return subprocess.run(
        [*shlex.split(line), "--silent", "--show-error", "--fail-with-body", "--max-time", "30"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_the_guide_says_what_happens(start_server: StartServer, demo_models: Path) -> None:
    served = {"half_plus_two": demo_models / "half_plus_two"}
    server = start_server(served, f"--admin_api_port={free_port()}")
    server.wait_until_available("half_plus_two")
    start, metadata, infer, index, unload, load, add = blocks("sh")
    assert start.startswith("servable ")

    answers = [json.loads(typed(command, server, demo_models)) for command in (metadata, infer)]
    assert answers == [json.loads(block) for block in blocks("json")]

    ready = {"name": "half_plus_two", "version": "1", "state": "READY", "reason": ""}
    assert json.loads(typed(index, server, demo_models)) == [ready]
    assert typed(unload, server, demo_models) == ""
    assert server.request("GET", "/v2/models/half_plus_two/ready").status == 404
    assert typed(load, server, demo_models) == ""
    assert typed(add, server, demo_models) == ""
    assert json.loads(typed(index, server, demo_models)) == [{**ready, "name": "another"}, ready]
