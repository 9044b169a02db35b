"""The environment of large packages, which `make test-all` installs beside the common one."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.models import ROOT
from support.server_process import ServerProcess

FRAMEWORKS = Path(sys.prefix) / "frameworks"


def environment() -> Mapping[str, str]:
    """Environment variables of processes that import its packages."""
    path = os.pathsep.join([str(FRAMEWORKS), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}


def require_frameworks(*packages: str) -> None:
    """Skip the test if one of the packages is not installed."""
    for package in packages:
        if not (FRAMEWORKS / package).is_dir():
            pytest.skip(f"there is no {FRAMEWORKS}/{package}; `make test-all` installs it")


def run_script(script: Path, *arguments: object) -> None:
    """Run a program with these packages, and fail with its messages if it does."""
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def follow_guide(name: str, directory: Path) -> tuple[Any, Any]:
    """Write, serve and ask a model as a guide says.

    Returns:
        The answer, and the one in the guide.
    """
    text = (ROOT / f"docs/guides/{name}.md").read_text()
    found = re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
    install, write, serve, ask = (block for language, block in found if language == "sh")
    assert install.startswith("pip install 'servable[")
    (program,) = (block for language, block in found if language == "python")
    (config,) = (block for language, block in found if not language)
    (promised,) = (block for language, block in found if language == "json")
    (directory / _name_of(program)).write_text(program)
    (directory / _name_of(config)).write_text(config.replace("/…", str(directory)))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def run(command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=directory,
            env={**environment(), "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(write)
    command, flag, port = shlex.split(serve)
    assert (command, port) == ("servable", "--rest_api_port=8501")
    flag = flag.replace("=", f"={directory}/")
    with ServerProcess([flag], directory=directory) as server:
        (model,) = re.findall(r'name: "(\w+)"', config)
        server.wait_until_available(model, within_seconds=300)
        return json.loads(run(ask.replace("8501", str(server.rest_port)))), json.loads(promised)


def _name_of(block: str) -> str:
    """The name of a file, from the comment in its first line."""
    first, _, _ = block.partition("\n")
    return first.removeprefix("# ")
