"""The examples of the security guide, run as written."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from servable._server.config.api_keys import read_api_keys
from servable._server.config.flags import Flags
from support.certificates import Authority
from support.models import ROOT
from support.server_process import ServerProcess

GUIDE = ROOT / "docs/guides/security.md"


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", GUIDE.read_text())


def type_curl(line: str, server: ServerProcess, directory: Path) -> str:
    """Execute a command that calls the server of the examples."""
    assert line.startswith("curl ")
    done = subprocess.run(
        ["bash", "-c", line.replace("localhost:8501", f"localhost:{server.rest_port}")],
        cwd=directory,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The files that the guide assumes: certificates and keys."""
    authority = Authority(tmp_path, "ca")
    authority.server()
    (keys,) = blocks("text")
    (tmp_path / "keys.txt").write_text(keys)
    return tmp_path


def serve(directory: Path, demo_models: Path, flags: Sequence[str]) -> ServerProcess:
    """Run the server of the examples on free ports."""
    own = [
        flag.replace("/models/", f"{demo_models}/").replace("file=", f"file={directory}/")
        for flag in flags
        if "port=" not in flag
    ]
    return ServerProcess(own, directory=directory)


def test_the_examples_do_what_they_say(directory: Path, demo_models: Path) -> None:
    server_block, encrypted, with_keys = blocks("sh")
    program, *flags = shlex.split(server_block.replace("\\\n", " "))
    assert program == "servable"
    with serve(directory, demo_models, flags) as server:
        retry = "curl --retry 30 --retry-all-errors --retry-delay 1 --fail "
        answer = type_curl(encrypted.strip().replace("curl ", retry, 1), server, directory)
        assert '"predictions": [2.5' in answer

    plain = [flag for flag in flags if not flag.startswith("--tls")]
    with serve(directory, demo_models, [*plain, "--api_keys_file=keys.txt"]) as server:
        for line in with_keys.strip().splitlines():
            assert '"version": "1"' in type_curl(line.replace("curl ", retry, 1), server, directory)
        assert server.get("/v1/models/half_plus_two").status == 401


def test_the_file_of_keys_is_one(directory: Path) -> None:
    keys = read_api_keys(str(directory / "keys.txt"))
    assert [(key.name, key.scope) for key in keys] == [("app", "predict"), ("ops", "admin")]


def test_every_flag_is_one_and_limits_have_the_defaults_of_the_table() -> None:
    text = GUIDE.read_text()
    names = set(re.findall(r"`--([a-z_]+)", text))
    assert all(hasattr(Flags(), name) for name in names)
    defaults = Flags()
    table = text[text.index("## Limits") :]
    in_words = {"2 GiB": 2**31 - 1, "100 MiB": 100 * 2**20, "64 KiB": 64 * 2**10}
    in_words["a quarter of the memory"] = 0  # the flag's value for it
    for flags, values in re.findall(r"^\| (`--[^|]*) \| ([^|]*) \|", table, re.MULTILINE):
        for name, value in zip(re.findall("`--([a-z_]+)`", flags), values.split(", "), strict=True):
            assert getattr(defaults, name) == in_words.get(value, value) or (
                str(int(getattr(defaults, name))) == value
            ), name
