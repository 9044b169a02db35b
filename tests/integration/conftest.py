"""Servers that several test files share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import models
from support import tflite_models as tflite
from support.server_process import ServerProcess

PYTHON_MODELS = Path(__file__).parents[1] / "testdata/python_models"


@pytest.fixture(scope="session")
def tflite_models(model_cache: Path) -> Path:
    """A base path for each model of the script."""
    return models.exported(tflite.SCRIPT, model_cache)


@pytest.fixture(scope="session")
def python_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Serves the Python models `echo`, `faulty` and `moody`."""
    directory = tmp_path_factory.mktemp("python-server")
    names = ("echo", "faulty", "moody")
    entries = "\n".join(
        f'config {{ name: "{name}" base_path: "{PYTHON_MODELS / name}" model_platform: "python" }}'
        for name in names
    )
    config = directory / "models.config"
    config.write_text(f"model_config_list {{ {entries} }}")
    with ServerProcess([f"--model_config_file={config}"], directory=directory) as process:
        process.wait_until_available(*names)
        yield process
        assert process.is_running, process.log
