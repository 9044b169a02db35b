"""The commands of docs/guides/serving-a-path.md, run as written."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from support.models import ROOT
from support.server_process import COMMAND, ServerProcess

GUIDE = (ROOT / "docs/guides/serving-a-path.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", GUIDE, re.DOTALL)


def shell(command: str) -> str:
    command = re.sub("^servable ", f"{COMMAND} ", command)
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True
    ).stdout


def test_the_commands_work(
    demo_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".demo").symlink_to(demo_models)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    serve, ask, check, inspect = [text for kind, text in BLOCKS if kind == "sh"]
    (report,) = [text for kind, text in BLOCKS if not kind]
    program, *paths = serve.split()
    assert program == "servable"
    with ServerProcess(paths, directory=tmp_path) as server:
        server.wait_until_available("turtle3", "python_model")
        answer = shell(ask.replace("8500", str(server.port)).replace("curl", "curl -sS"))
        assert json.loads(answer).keys() == {"outputs"}
        server.terminate()
        assert server.wait() == 0
        for line in report.splitlines()[1:]:
            assert line in server.log
    assert "turtle3: tensorflow model in" in shell(check)
    assert shell(inspect).startswith("Model turtle3, version 1\n")
