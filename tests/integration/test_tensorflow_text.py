"""Models of `tensorflow-text`, together with Python models whose libraries could be confused with its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.server_process import StartServer, model_config

pytestmark = pytest.mark.slow

_TESTS = Path(__file__).resolve().parents[1]
_ANSWERS = {
    "ngrams": [["the quick", "quick fox"]],
    "masks": [[1, 1, 0]],
    "round_robin": [["the"]],
    "waterfall": [["the", "quick"]],
    "wordpiece": [["the", "quick", "fox"]],
    "unicode": [["the", "quick", "fox"]],
    "fastbert": [[0, 1, 2]],
}


@pytest.fixture(scope="module")
def packages() -> Path:
    """The packages that are too large for the common environment, installed by `make`."""
    directory = Path(sys.prefix) / "operations"
    if not directory.is_dir():
        pytest.skip(f"there is no {directory}; `make test-all` makes it")
    return directory


@pytest.fixture(scope="module")
def models(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("text")
    subprocess.run(
        [sys.executable, _TESTS / "testdata/export_text_models.py", directory],
        env={**os.environ, "PYTHONPATH": str(packages)},
        check=True,
    )
    return directory


@pytest.mark.parametrize("model", _ANSWERS)
def test_a_model_serves_between_python_models(
    model: str,
    packages: Path,
    models: Path,
    runtime_models: Path,
    tmp_path: Path,
    start_server: StartServer,
) -> None:
    scientific = _TESTS / "testdata/python_models/scientific"
    config = tmp_path / "all.config"
    config.write_text(
        model_config({"text": tmp_path / "text", "linear": runtime_models / "linear"}).removesuffix(
            "}\n"
        )
        + f'config {{ name: "before" base_path: "{scientific}" model_platform: "python" }}\n'
        + f'config {{ name: "after" base_path: "{tmp_path}/after" model_platform: "python" }}\n}}\n'
    )
    for name in ("text", "after"):
        (tmp_path / name).mkdir()
    # A single successful start proves little, because memory addresses differ at each start.
    for attempt in (1, 2):
        server = start_server(
            {},
            f"--model_config_file={config}",
            environment={"PYTHONPATH": str(packages)},
        )
        server.wait_until_available("before", "linear")
        shutil.copytree(models / model / "1", tmp_path / f"text/{attempt}")
        server.wait_until_available("text")
        shutil.copytree(scientific / "1", tmp_path / f"after/{attempt}")
        server.wait_until_available("after")
        answer = server.predict("text", {"instances": ["the quick fox"]})
        assert answer.json() == {"predictions": _ANSWERS[model]}
        for name in ("before", "after"):
            assert server.predict(name, {"inputs": [1.0]}).json() == {"outputs": [2.0]}
        server.terminate()
        assert server.wait() == 0
        shutil.rmtree(tmp_path / f"text/{attempt}")
        shutil.rmtree(tmp_path / f"after/{attempt}")
