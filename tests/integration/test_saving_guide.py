"""The guides from training to a query with `servable.save`, run as written."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from servable.saving._conversion import _KINDS
from support.models import ROOT
from support.server_process import ServerProcess

GUIDES = ROOT / "docs/guides"
FRAMEWORKS = Path(sys.prefix) / "frameworks"


class Guide:
    """The blocks of a page."""

    def __init__(self, name: str) -> None:
        self.text = (GUIDES / f"{name}.md").read_text()
        self._blocks = re.findall(r"```(\w*)\n(.*?)```", self.text, re.DOTALL)

    def blocks(self, language: str) -> list[str]:
        return [text for found, text in self._blocks if found == language]


def run(command: str, directory: Path, *, uses_frameworks: bool = False) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    if uses_frameworks:
        others = os.environ.get("PYTHONPATH", "")
        environment["PYTHONPATH"] = os.pathsep.join([str(FRAMEWORKS), others])
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if uses_frameworks and "No module named" in done.stderr:
        pytest.skip(f"{done.stderr.splitlines()[-1]}; `make test-all` installs it")
    assert done.returncode == 0, done.stderr
    return done.stdout


def close_to(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: close_to(each) for name, each in value.items()}
    if isinstance(value, list):
        return [close_to(each) for each in value]
    return pytest.approx(value, abs=0.01) if isinstance(value, float) else value


@pytest.mark.parametrize(
    "name",
    [
        "saving-models",
        "keras",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("catboost", "jax", "pytorch", "scikit-learn")
        ),
    ],
)
def test_a_guide_leads_from_training_to_a_query(name: str, tmp_path: Path) -> None:
    guide = Guide(name)
    program = guide.blocks("python")[0]
    assert program.startswith("# train.py\n")
    (tmp_path / "train.py").write_text(program)
    install, train, serve, ask = guide.blocks("sh")
    assert install.startswith("pip install 'servable[")
    uses_frameworks = name not in ("saving-models", "keras")
    printed = run(train, tmp_path, uses_frameworks=uses_frameworks)
    assert printed == guide.blocks("")[0]
    command, path, port = shlex.split(serve)
    assert (command, port) == ("servable", "--port=8500")
    with ServerProcess([str(tmp_path / path)], directory=tmp_path) as server:
        server.wait_until_available(Path(path).name)
        answer = json.loads(run(ask.replace("8500", str(server.port)), tmp_path))
    (promised,) = guide.blocks("json")
    assert answer == close_to(json.loads(promised))
    if name == "saving-models":
        (tmp_path / "load.py").write_text(guide.blocks("python")[2])
        assert run("python load.py", tmp_path) == guide.blocks("")[2]


def test_the_signature_is_one() -> None:
    names: dict[str, Any] = {}
    exec(Guide("saving-models").blocks("python")[1], names)
    assert names["signature"].inputs["tokens"].shape == (None, None)


def test_every_kind_has_a_row() -> None:
    names = {"sklearn": "scikit-learn", "torch": "PyTorch"}
    text = Guide("saving-models").text
    rows = [row.lower() for row in re.findall(r"^\| \[?([\w-]+)", text, re.MULTILINE)]
    for kind in {*_KINDS.values(), "tflite", "python"}:
        assert names.get(kind, kind).lower() in rows
