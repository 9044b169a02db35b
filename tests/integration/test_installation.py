"""README's installation, in a separate environment."""

from __future__ import annotations

import os
import re
import subprocess
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from support import import_extra
from support.models import ROOT

EXTRAS = metadata.metadata("servable").get_all("Provides-Extra") or []


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
        output = run(f"{name} --version", tmp_path)
        assert re.search(r"(?m)^TensorFlow Library: \d+\.\d+", output), output


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("extra", ["base", *EXTRAS])
def test_each_extra_works_alone(extra: str, tmp_path: Path) -> None:
    """Declared dependencies are installed; the package itself, and its extension, come from this tree."""
    if extra == "torch":
        pytest.skip("its wheel needs several GB of libraries for GPUs")
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin/python"
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "servable.pth").write_text(f"{ROOT / 'python'}\n")
    required = []
    for line in metadata.requires("servable") or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            requirement.marker = None
            required.append(str(requirement))
    for command in (
        [python, "-m", "pip", "install", "--quiet", *required],
        [python, import_extra.__file__, extra],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
