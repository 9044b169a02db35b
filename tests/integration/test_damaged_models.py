"""Damaged models of native runtimes are refused, and end a process only where the runtime's own loader does."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest

from support.boosted_models import config_flag, entry, train
from support.load_damaged import DAMAGES, assert_only_the_library_crashes, damaged
from support.onnx_models import converted, iris_classifier
from support.server_process import StartServer
from support.tflite_models import hostile

ROW = [0.0] * 4


@dataclass(frozen=True)
class Model:
    """A sound model.

    Attributes:
        platform: Its kind.
        file: In the directories of `trained`.
        body: A request.
    """

    platform: str
    file: str
    body: Mapping[str, Any]


MODELS = [
    Model("onnx", "onnx/iris/1/iris.onnx", {"instances": [ROW]}),
    Model("tflite", "tflite/linear/1/model.tflite", {"instances": [ROW]}),
    Model("tflite", "tflite/strings/1/model.tflite", {"instances": [""]}),
    Model("tflite", "tflite/int8/1/model.tflite", {"inputs": [[1, 2, 3, 4]]}),
    Model("xgboost", "xgboost/iris/1/model.json", {"instances": [ROW]}),
    Model("lightgbm", "lightgbm/binary/1/model.txt", {"instances": [[0.0] * 30]}),
    Model("lightgbm", "lightgbm/categories/1/model.txt", {"instances": []}),
    Model("lightgbm", "lightgbm/linear_trees/1/model.txt", {"instances": []}),
]
UBJ = Model("xgboost", "xgboost/binary/1/model.ubj", {"instances": [[0.0] * 30]})
"""What crashes in XGBoost's reader of this format does so by chance, so only a slow test loads it here."""

ELSEWHERE = {"process": "process: true", "trial": "trial_load: true"}


def name_of(value: object) -> str | None:
    return value.file.replace("/1/", "/") if isinstance(value, Model) else None


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tflite_models: Path) -> Path:
    directory = tmp_path_factory.mktemp("trained")
    for library in ("xgboost", "lightgbm"):
        train(library, directory / library)
    (directory / "tflite").symlink_to(tflite_models)
    pipeline, rows = iris_classifier()
    file = directory / "onnx/iris/1/iris.onnx"
    file.parent.mkdir(parents=True)
    onnx.save(converted(pipeline, rows[:1], zipmap=False), file)
    return directory


@pytest.mark.timeout(600)
@pytest.mark.parametrize("model", [*MODELS, pytest.param(UBJ, marks=pytest.mark.slow)], ids=name_of)
def test_damages_end_no_process_unless_the_library_ends_it_too(
    model: Model, trained: Path, tmp_path: Path
) -> None:
    texts = assert_only_the_library_crashes(model.platform, trained / model.file, tmp_path)
    assert "loaded" in texts
    assert len([text for text in texts if text != "loaded"]) > DAMAGES / 4


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("elsewhere", list(ELSEWHERE))
@pytest.mark.parametrize("model", [*MODELS[0:4:3], UBJ, MODELS[5]], ids=name_of)
def test_no_damage_ends_a_server_that_loads_it_elsewhere(
    model: Model, elsewhere: str, trained: Path, tmp_path: Path, start_server: StartServer
) -> None:
    file = trained / model.file
    sound, aside, served = file.read_bytes(), tmp_path / "aside", tmp_path / "damaged"
    served.mkdir()
    for number in range(DAMAGES):
        is_hostile = number == 0 and model.file.endswith("int8/1/model.tflite")
        version = aside / str(number + 1)
        version.mkdir(parents=True)
        data = hostile(sound) if is_hostile else damaged(sound, number)
        (version / file.name).write_bytes(data)
    options = f"servable_options {{ {ELSEWHERE[elsewhere]} warmup {{ automatic: true }} }}"
    config = config_flag(
        tmp_path / "models.config",
        entry("damaged", served, model.platform, f"model_version_policy {{ all {{}} }} {options}"),
        entry("sound", file.parents[1], model.platform),
    )
    server = start_server({}, config)
    server.wait_until_available("sound")
    for version in aside.iterdir():
        version.rename(served / version.name)
    end = time.monotonic() + 900
    states: dict[int, str] = {}
    while len(states) < DAMAGES or not {*states.values()} <= {"AVAILABLE", "END"}:
        assert time.monotonic() < end, states
        assert server.predict("sound", model.body).status == 200
        time.sleep(1)
        states = server.states("damaged")
    loaded = [version for version, state in states.items() if state == "AVAILABLE"]
    assert loaded
    for version in loaded:
        server.predict(f"damaged/versions/{version}", model.body)
    assert server.predict("sound", model.body).status == 200
