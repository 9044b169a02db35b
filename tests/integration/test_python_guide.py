"""The guide of Python models and its example, run as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.models import ROOT
from support.server_process import StartServer

GUIDE = ROOT / "docs/guides/python-models.md"


@pytest.fixture(scope="module")
def blocks() -> dict[str, str]:
    """The fenced blocks of the guide, by the file name in their first line."""
    found = re.findall(r"```\w*\n(?:# (\S+)\n)?(.*?)```", GUIDE.read_text(), re.DOTALL)
    return {name or body: body for name, body in found}


def test_the_guide_serves_what_it_says(
    blocks: dict[str, str], start_server: StartServer, tmp_path: Path
) -> None:
    base_path = tmp_path / "models/half_plus_two"
    version = base_path / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(blocks["models/half_plus_two/1/model.py"])
    workers = next(block for block in blocks.values() if "workers: 4" in block)
    models = blocks["models.config"].rstrip().removesuffix("}") + workers + "}"
    config = tmp_path / "models.config"
    config.write_text(re.sub(r'"/…[^"]*"', f'"{base_path}"', models))
    server = start_server({}, f"--model_config_file={config}")
    server.wait_until_available("half_plus_two", "m")
    (command,) = (line for block in blocks for line in block.splitlines() if "curl" in line)
    body = re.search(r"-d '(.*?)'", command)
    assert body is not None
    for model in ("half_plus_two", "m"):
        reply = server.predict(model, body[1].encode())
        assert reply.json() == {"predictions": [2.5, 3.0, 4.5]}


def test_the_example_serves(start_server: StartServer, tmp_path: Path) -> None:
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "texts" model_platform: "python" '
        f'base_path: "{ROOT / "examples/python_model"}" }} }}'
    )
    server = start_server({}, f"--model_config_file={config}")
    server.wait_until_available("texts")
    texts = ["Good soup", "an awful bad day out"]
    reply = server.predict("texts", {"instances": texts})
    assert reply.json()["predictions"] == pytest.approx([0.5, -0.6])
    reply = server.predict("texts", {"signature_name": "words", "inputs": texts})
    assert reply.json() == {"outputs": [2, 5]}
    reply = server.predict("texts", {"instances": ["good", ""]})
    assert (reply.status, reply.error) == (400, "a text without words has no score")
