"""Models that are loaded and called from Python, without a server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from servable.errors import Code, ServableError
from servable.lifecycle import ServableId, StaticManager
from servable.loaders import (
    PythonCallableLoader,
    PythonOptions,
    SavedModelLoader,
    SavedModelOptions,
    TensorFlowRuntime,
)
from servable.loaders.models import LoadsModel, Model, ModelLoader

ECHO = Path(__file__).parents[1] / "testdata/python_models/echo/1"


def saved_model(demo_models: Path) -> LoadsModel:
    path = demo_models / "half_plus_two/1"
    return SavedModelLoader(str(path), TensorFlowRuntime(), SavedModelOptions())


def python_model(demo_models: Path) -> LoadsModel:
    del demo_models
    return PythonCallableLoader(ServableId("echo", 1), str(ECHO), PythonOptions())


def test_a_saved_model_is_called_through_a_manager(demo_models: Path) -> None:
    manager = StaticManager[Model]({ServableId("half", 1): ModelLoader(saved_model(demo_models))})
    with manager.handle("half") as half:
        outputs = half.value({"x": np.array([1.0, 5.0], np.float32)})
        assert outputs["y"].tolist() == [2.5, 4.5]
        assert outputs["y"].dtype == np.float32
        with pytest.raises(ServableError, match="input size does not match signature") as raised:
            half.value({})
        assert raised.value.code is Code.INVALID_ARGUMENT
        with pytest.raises(ServableError, match="Serving signature key") as raised:
            half.value({"x": [1.0]}, "nothing")
        assert raised.value.code is Code.FAILED_PRECONDITION
        with pytest.raises(ServableError) as raised:
            half.value({"x": np.array([1], np.int64)})
        assert raised.value.code is Code.INVALID_ARGUMENT
        model = half.value
    manager.close()
    with pytest.raises(ServableError, match="the servable was unloaded"):
        model({"x": np.array([1.0], np.float32)})


@pytest.mark.parametrize("make", [saved_model, python_model])
def test_a_model_is_loaded_and_unloaded_alone(
    demo_models: Path, make: Callable[[Path], LoadsModel]
) -> None:
    loader = ModelLoader(make(demo_models))
    with pytest.raises(ServableError, match="is not loaded"):
        loader.servable  # noqa: B018
    loader.load()
    assert loader.servable.wait_until_idle(0)
    loader.unload()
    with pytest.raises(ServableError, match="is not loaded"):
        loader.servable  # noqa: B018


def test_tensors_of_all_kinds_cross(demo_models: Path) -> None:
    loader = ModelLoader(python_model(demo_models))
    loader.load()
    try:
        model = loader.servable.value
        strings = np.array([["a", b"\xff"]], object)
        assert model({"x": strings}, "bytes")["y"].tolist() == [[b"a", b"\xff"]]
        assert model({"x": np.zeros((0, 2), np.int8)}, "int8")["y"].shape == (0, 2)
        columns = np.arange(6, dtype=">f4").reshape(2, 3)[:, ::-1]  # gaps, and the other byte order
        assert model({"x": columns}, "float32")["y"].tolist() == [[2, 1, 0], [5, 4, 3]]
    finally:
        loader.unload()
