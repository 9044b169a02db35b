"""Models of several platforms: what the configuration may say, and who loads their versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from servable._server.config.models import (
    PYTHON_PLATFORM,
    TENSORFLOW_PLATFORM,
    ModelConfig,
    read_model_config_file,
)
from servable._server.publisher import ModelPublisher
from servable._server.server_core import CoreOptions, ServerCore
from servable.errors import ConfigError
from servable.lifecycle import Loader, ServableId, SourceAdapter
from servable.loaders._python_callable import PythonOptions
from servable.testing import FakeLoader


class NotingAdapter(SourceAdapter[str, Loader]):
    def __init__(self) -> None:
        super().__init__()
        self.adapted: set[ServableId] = set()

    def adapt(self, servable_id: ServableId, item: str) -> Loader:
        self.adapted.add(servable_id)
        return FakeLoader()


def config_file(directory: Path, platform: str, options: str = "") -> str:
    file = directory / "models.config"
    file.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "/m" model_platform: "{platform}" '
        f"{options} }} }}"
    )
    return str(file)


def test_python_models_can_have_workers(tmp_path: Path) -> None:
    options = "servable_options { python { workers: 3 } }"
    models = read_model_config_file(config_file(tmp_path, "python", options))
    assert models == (ModelConfig("m", "/m", PYTHON_PLATFORM, python=PythonOptions(workers=3)),)


@pytest.mark.parametrize(
    ("platform", "options", "complaint"),
    [
        ("python", "servable_options { python { workers: -1 } }", r"python\.workers -1; want 0"),
        ("pythons", "", "^Model m requests unsupported platform pythons$"),
    ],
)
def test_what_no_platform_can_do_is_refused(
    platform: str, options: str, complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        read_model_config_file(config_file(tmp_path, platform, options))


def test_each_model_goes_to_the_adapter_of_its_platform(tmp_path: Path) -> None:
    adapters = {TENSORFLOW_PLATFORM: NotingAdapter(), PYTHON_PLATFORM: NotingAdapter()}
    core = ServerCore(ModelPublisher(lambda models: None), adapters, CoreOptions())
    models = []
    for platform in adapters:
        (tmp_path / platform / "1").mkdir(parents=True)
        models.append(ModelConfig(platform, str(tmp_path / platform), platform))
    models[1] = ModelConfig(
        PYTHON_PLATFORM, str(tmp_path / PYTHON_PLATFORM), PYTHON_PLATFORM, python=PythonOptions(2)
    )
    core.start(models[:1])
    core.reload(models)
    core.reload(models[1:])
    assert core.python_options(PYTHON_PLATFORM) == PythonOptions(2)
    assert core.python_options("gone") == PythonOptions()
    for platform, adapter in adapters.items():
        assert adapter.adapted == {ServableId(platform, 1)}
    assert core.stop(10)
