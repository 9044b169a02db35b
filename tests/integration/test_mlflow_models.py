"""Models that MLflow wrote, served by MLflow in worker processes; they answer as the original does."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import servable
from servable.client import Client
from servable.errors import Code, LoadError
from support.frameworks import (
    FRAMEWORKS,
    environment,
    follow_guide,
    require_frameworks,
    run_script,
)
from support.models import ROOT
from support.server_process import COMMAND, ServerProcess

NAMES = ("columns", "matrix", "code")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="session")
def mlflow_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_frameworks("mlflow", "pandas", "yaml")
    directory = tmp_path_factory.mktemp("mlflow-models")
    run_script(ROOT / "tests/testdata/log_mlflow_models.py", directory)
    return directory


@pytest.fixture(autouse=True)
def frameworks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FRAMEWORKS))
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])


@pytest.fixture(scope="module")
def server(
    mlflow_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    entries = " ".join(
        f'config {{ name: "{name}" base_path: "{mlflow_models / name}" model_platform: "mlflow" '
        "servable_options { trusted: true } }"
        for name in (*NAMES, "undescribed")
    )
    directory = tmp_path_factory.mktemp("mlflow-server")
    file = directory / "models.config"
    file.write_text(f"model_config_list {{ {entries} }}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
        flags = [f"--model_config_file={file}", "--max_num_load_retries=0"]
        with ServerProcess(flags, directory=directory) as process:
            process.wait_until_available(*NAMES, within_seconds=300)
            yield process
            assert process.is_running, process.log


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("name", NAMES)
def test_a_model_answers_as_the_original_does(
    name: str, protocol: str, server: ServerProcess, mlflow_models: Path
) -> None:
    arrays = json.loads((mlflow_models / f"{name}.json").read_text())
    port = server.port if protocol == "grpc" else server.rest_port
    with Client(f"{protocol}://localhost:{port}") as client:
        model = client.model(name)
        dtypes = {key: spec.dtype for key, spec in _inputs(model).items()}
        got = model.predict(
            {key: _array(value, dtypes[key]) for key, value in arrays["inputs"].items()}
        )
    assert got.keys() == arrays["outputs"].keys()
    for key, wanted in arrays["outputs"].items():
        if isinstance(wanted[0], str):
            found = [each.decode() if isinstance(each, bytes) else each for each in got[key]]
            assert found == wanted
        else:
            np.testing.assert_allclose(got[key], wanted, rtol=1e-6)


def _inputs(model: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = model.metadata().signatures["serving_default"].inputs
    return found


def _array(value: Any, dtype: str) -> Any:
    return np.array(value, object if dtype == "bytes" else dtype)


def test_a_model_without_a_signature_is_refused(server: ServerProcess) -> None:
    assert "MLmodel: got no signature; log the model again with" in server.log


def test_a_model_is_refused_without_trust(mlflow_models: Path) -> None:
    with pytest.raises(LoadError, match="is a Python function of MLflow: reading it") as raised:
        servable.load(mlflow_models / "code")
    assert raised.value.code is Code.PERMISSION_DENIED
    # Beside a pickle, the description decides.
    with servable.load(mlflow_models / "matrix", trusted=True) as model:
        assert model.platform == "mlflow"
        assert model(np.zeros((2, 4)))["predictions"].shape == (2,)


def test_the_guide_leads_from_training_to_a_query(tmp_path: Path) -> None:
    require_frameworks("mlflow", "pandas", "skops", "yaml")
    answer, promised = follow_guide("mlflow", tmp_path)
    assert answer == promised


def test_inspect_reads_the_description_only(mlflow_models: Path) -> None:
    command = [COMMAND, "inspect", str(mlflow_models / "columns")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert "petal length (cm)" in done.stdout, done.stderr
    assert "float64 [?]" in done.stdout
