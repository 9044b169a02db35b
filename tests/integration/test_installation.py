"""README's installation, in an environment of its own."""

from __future__ import annotations

import os
import re
import subprocess
import venv
from pathlib import Path

import pytest

from support.models import ROOT


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_install_from_the_clone(tmp_path: Path) -> None:
    (command,) = re.findall(r"(?m)^pip install '.*", (ROOT / "README.md").read_text())
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    path = f"{environment / 'bin'}:{os.environ['PATH']}"

    def run(line: str, directory: Path) -> str:
        return subprocess.run(
            ["bash", "-c", line],
            cwd=directory,
            env={**os.environ, "PATH": path},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    run(command, ROOT)
    for name in ("servable", "tensorflow_model_server"):
        told = run(f"{name} --version", tmp_path)
        assert re.search(r"(?m)^TensorFlow Library: \d+\.\d+", told), told
