"""README's first minute, run as written.

The commands are exactly those of README. Servers run in the background instead of in other terminals. Installation is
tested by `test_installation`, because here the package is already installed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.models import ROOT

README = (ROOT / "README.md").read_text()
PORTS = (8500, 8501, 8510)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and its text."""

    language: str
    text: str


def blocks_of(title: str) -> list[Block]:
    """The fenced blocks of one section of README."""
    section = re.split(r"(?m)^#+ ", README)
    (text,) = [part for part in section if part.startswith(title + "\n")]
    return [Block(*found) for found in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", text)]


FIRST_MINUTE = blocks_of("The first minute")
PYTHON_EXAMPLES = [
    block.text
    for title in ("Calling it from Python", "Calling it with gRPC")
    for block in blocks_of(title)
    if block.language == "python"
]


def is_taken(port: int) -> bool:
    """Whether the port has a listener."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until_available(command: str) -> None:
    """Wait until the server of this command serves its models."""
    flags = dict(re.findall(r"--(\w+)=(\S+)", command))
    port = flags.get("rest_api_port", flags.get("port", "8500"))
    paths = [word for word in command.split()[1:] if not word.startswith("--")]
    for name in [Path(path).name for path in paths] or [flags["model_name"]]:
        wait_until_answers(f"http://127.0.0.1:{port}/v1/models/{name}")


def wait_until_answers(url: str) -> None:
    """Wait until a model has an available version."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            if b'"AVAILABLE"' in answer.read():
                return
        time.sleep(0.02)
    raise AssertionError(f"nothing is available at {url}")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The parts of a clone that the commands use."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of a reader who has activated the virtual environment."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.fixture
def terminals() -> Iterator[list[subprocess.Popen[bytes]]]:
    """The started servers; ended with SIGINT."""
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for server in running:
        server.send_signal(signal.SIGINT)
    assert [server.wait(30) for server in running] == [0] * len(running)


def test_first_minute(
    directory: Path,
    environment: dict[str, str],
    terminals: list[subprocess.Popen[bytes]],
) -> None:
    taken = [port for port in PORTS if is_taken(port)]
    if taken:
        pytest.skip(f"README's ports are in use on this machine: {taken}")
    printed = ""
    for block in FIRST_MINUTE:
        command = block.text.strip()
        if block.language == "json":
            assert_same_predictions(json.loads(printed), json.loads(block.text))
        elif block.language == "python":
            run_python(block.text, directory, environment)
        elif command.startswith("pip install"):
            continue
        elif command.startswith("servable"):
            terminals.append(
                subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=directory, env=environment)
            )
            wait_until_available(command)
        else:
            printed = subprocess.run(
                ["bash", "-e", "-c", command],
                cwd=directory,
                env=environment,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            if "models/iris:predict" in command:
                assert printed.count('"predictions"') == 2, printed
    assert '"state": "AVAILABLE"' in printed  # the last command requests the status
    for example in PYTHON_EXAMPLES:
        probabilities = run_python(example, directory, environment)
        assert [float(p) for p in probabilities.strip(" []\n").split()] == pytest.approx(
            [0.323, 0.677], abs=1e-3
        )


def run_python(program: str, directory: Path, environment: dict[str, str]) -> str:
    """Run a program, and return what it prints."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=directory,
        env={**environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def assert_same_predictions(got: dict[str, list[float]], shown: dict[str, list[float]]) -> None:
    """Compare an answer with that of README; the last digits depend on the processor."""
    assert got.keys() == shown.keys() == {"predictions"}
    assert got["predictions"] == pytest.approx(shown["predictions"], rel=1e-4)
    assert sum(got["predictions"]) == pytest.approx(1, abs=1e-6)


def test_the_first_query_is_rest_at_the_grpc_port() -> None:
    first = next(b.text for b in FIRST_MINUTE if b.text.startswith("curl"))
    assert "http://localhost:8500/v1/models/turtle3:predict" in first


def test_readme_begins_with_run_and_test() -> None:
    commands = [line.split("  ")[0] for line in blocks_of("Servable")[0].text.splitlines()]
    assert commands == ["make run", "make test"]
