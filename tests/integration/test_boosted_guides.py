"""The guides to models of boosted trees, from training to a query, run as written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.server_process import ServerProcess

GUIDES = Path(__file__).parents[2] / "docs/guides"
EXPECTED_LABEL = 2


@pytest.mark.parametrize("kind", ["xgboost", "lightgbm"])
def test_the_guide_is_correct(kind: str, tmp_path: Path) -> None:
    text = (GUIDES / f"{kind}.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    _, serve, ask = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    (config,) = re.findall(r"```\n(# models.config.*?)```", text, re.DOTALL)
    (tmp_path / "train.py").write_text(program)
    train, command = serve.splitlines()
    assert train == "python train.py"
    subprocess.run([sys.executable, "train.py"], cwd=tmp_path, check=True)
    file = tmp_path / "models.config"
    file.write_text(config.replace("/…", str(tmp_path)))
    assert command == "servable models/iris"
    path = str(tmp_path / "models/iris")
    for flag in (path, f"--model_config_file={file}"):
        with ServerProcess([flag], directory=tmp_path) as server:
            server.wait_until_available("iris")
            sent = re.findall(r"curl -d '(.*?)' localhost:8500(\S+)", ask, re.DOTALL)
            answers = [server.request("POST", path, body.encode()).json() for body, path in sent]
    predicted, by_name, classified = answers
    assert predicted == by_name
    (classes,) = classified["results"]
    assert max(classes, key=lambda each: each[1])[0] == str(EXPECTED_LABEL)
    assert predicted["predictions"][0]["labels"] == EXPECTED_LABEL
