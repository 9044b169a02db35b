"""Models that were trained, saved, loaded in process and served: all of them answer alike."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import servable
from servable.client import Client
from servable.errors import Code, LoadError
from servable.loaders._manifest import MANIFEST_FILE, Manifest, read_manifest
from servable.saving import LoadedModel
from servable.saving._tensors import from_json
from support.models import ROOT
from support.server_process import ServerProcess

SAVE_MODELS = ROOT / "tests/testdata/save_models.py"
PLATFORMS = {
    "keras": "tensorflow",
    "onnx": "onnx",
    "python": "python",
    "sklearn": "onnx",
    "sklearn_table": "onnx",
    "sklearn_text": "onnx",
    "tensorflow": "tensorflow",
    "xgboost": "xgboost",
}
"""The kinds, and the platform that serves each."""
LARGE = {"catboost": "onnx", "jax": "tensorflow", "sklearn_frame": "onnx", "torch": "onnx"}
"""Kinds whose frameworks are not in the common environment."""
FRAMEWORKS = Path(sys.prefix) / "frameworks"
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Saved:
    """A saved model, with other inputs and the outputs of the original for them."""

    base_path: Path
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]

    @property
    def version(self) -> Path:
        return self.base_path / "1"

    @property
    def manifest(self) -> Manifest:
        found = read_manifest(self.version)
        assert found is not None
        return found


@pytest.fixture(scope="session")
def saved_models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Saved]:
    """Those of the common environment; one process makes them all, so that frameworks meet each other."""
    return save(tmp_path_factory.mktemp("saved-models"), *PLATFORMS)


@pytest.fixture(scope="session")
def saved_models_server(
    saved_models: Mapping[str, Saved], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """One server of them all."""
    with serve(saved_models, tmp_path_factory.mktemp("saved-models-server")) as server:
        yield server


def save(output: Path, *kinds: str) -> Mapping[str, Saved]:
    path = os.pathsep.join([str(FRAMEWORKS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, SAVE_MODELS, output, *kinds],
        env={**os.environ, **({"PYTHONPATH": path} if set(kinds) & set(LARGE) else {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if "No module named" in done.stderr and set(kinds) & set(LARGE):
        pytest.skip(f"{done.stderr.splitlines()[-1]}; `make test-all` installs it")
    assert done.returncode == 0, done.stderr
    found = {}
    for kind in kinds:
        arrays = json.loads((output / f"{kind}.json").read_text())
        inputs, outputs = (from_json(arrays[part], kind) for part in ("inputs", "outputs"))
        found[kind] = Saved(output / kind, inputs, outputs)
    return found


@contextlib.contextmanager
def serve(models: Mapping[str, Saved], directory: Path) -> Iterator[ServerProcess]:
    entries = "\n".join(
        f'config {{ name: "{kind}" base_path: "{saved.base_path}" '
        f'model_platform: "{saved.manifest.platform}" }}'
        for kind, saved in models.items()
    )
    config = directory / "models.config"
    config.write_text(f"model_config_list {{ {entries} }}")
    with ServerProcess([f"--model_config_file={config}"], directory=directory) as process:
        process.wait_until_available(*models)
        yield process
        assert process.is_running, process.log


@pytest.fixture(params=PLATFORMS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def saved(kind: str, saved_models: Mapping[str, Saved]) -> Saved:
    return saved_models[kind]


@pytest.fixture
def loaded(saved: Saved) -> Iterator[LoadedModel]:
    with servable.load(saved.base_path) as model:
        yield model


def assert_same(got: Mapping[str, Any], expected: Mapping[str, Any], tolerance: float) -> None:
    assert set(expected) <= set(got)
    for name, wanted in expected.items():
        array = np.asarray(got[name])
        assert array.shape == wanted.shape
        if wanted.dtype == object:
            found = [x.encode() if isinstance(x, str) else x for x in array.ravel().tolist()]
            assert found == wanted.ravel().tolist()
        else:
            np.testing.assert_allclose(array, wanted, rtol=tolerance, atol=tolerance)


def test_the_original_the_loaded_model_and_the_server_agree(
    kind: str, saved: Saved, loaded: LoadedModel, saved_models_server: ServerProcess
) -> None:
    assert_all_agree(kind, saved, loaded, saved_models_server)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LARGE)
def test_models_of_large_frameworks_agree(kind: str, tmp_path: Path) -> None:
    (saved,) = save(tmp_path, kind).values()
    assert saved.manifest.kind == kind.partition("_")[0]
    assert saved.manifest.platform == LARGE[kind]
    with servable.load(saved.base_path) as loaded, serve({kind: saved}, tmp_path) as server:
        assert_all_agree(kind, saved, loaded, server)


def assert_all_agree(kind: str, saved: Saved, loaded: LoadedModel, server: ServerProcess) -> None:
    here = loaded(saved.inputs)
    assert_same(here, saved.outputs, TOLERANCE)
    for address in (f"grpc://localhost:{server.port}", f"http://localhost:{server.rest_port}"):
        with Client(address) as client:
            answer = client.model(kind).predict(saved.inputs)
        # JSON has the shortest digits of each number, so that nothing is lost.
        assert_same(answer, here, 0)
        assert set(answer) == set(here)


def test_one_row_gets_the_answer_that_it_gets_among_others(
    saved: Saved, loaded: LoadedModel
) -> None:
    for row in (0, 7):
        inputs = {name: array[row : row + 1] for name, array in saved.inputs.items()}
        outputs = {name: array[row : row + 1] for name, array in saved.outputs.items()}
        assert_same(loaded(inputs), outputs, TOLERANCE)


def test_the_manifest_describes_the_model(kind: str, saved: Saved, loaded: LoadedModel) -> None:
    manifest = saved.manifest
    assert manifest.kind == loaded.kind == kind.partition("_")[0]
    assert manifest.platform == loaded.platform == PLATFORMS[kind]
    signature = manifest.signatures["serving_default"]
    assert set(signature.inputs) == set(saved.inputs)
    assert set(signature.outputs) >= set(saved.outputs)
    for spec in signature.inputs.values():
        assert spec.shape is not None
        assert spec.shape[0] is None
    assert manifest.libraries["servable"] == servable.__version__
    assert len(manifest.libraries) >= 2
    assert manifest.example is not None
    kept = from_json(manifest.example["inputs"], "example")
    assert {len(array) for array in kept.values()} == {8}
    assert set(manifest.largest_difference) == set(saved.outputs)
    assert all(0 <= found <= TOLERANCE for found in manifest.largest_difference.values())


def test_a_changed_file_is_refused(saved: Saved, tmp_path: Path) -> None:
    version = tmp_path / "1"
    shutil.copytree(saved.version, version)
    largest = max(saved.manifest.files, key=lambda path: (version / path).stat().st_size)
    with (version / largest).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\0")
    with pytest.raises(LoadError, match=f"{largest}: got sha256:.*, want sha256:.* as when it was"):
        servable.load(tmp_path)


def test_other_answers_for_the_example_are_refused_with_the_versions_of_libraries(
    saved: Saved, tmp_path: Path
) -> None:
    version = tmp_path / "1"
    shutil.copytree(saved.version, version)
    document = json.loads((version / MANIFEST_FILE).read_text())
    name, output = next(iter(document["example"]["outputs"].items()))
    values = np.array(output["values"])
    output["values"] = (values + 1 if values.dtype.kind != "U" else values + np.array("x")).tolist()
    library = next(library for library in document["libraries"] if library != "servable")
    document["libraries"][library] = "0.0.1"
    (version / MANIFEST_FILE).write_text(json.dumps(document))
    with pytest.raises(LoadError) as raised:
        servable.load(tmp_path)
    message = raised.value.message
    assert "no longer answers its example as when it was saved" in message
    assert f'output "{name}" differs on 8 of 8 rows' in message
    assert f"it was saved with {library} 0.0.1 (found " in message


class TestLoad:
    def test_the_newest_version_of_a_base_path_is_loaded(
        self, saved_models: Mapping[str, Saved], tmp_path: Path
    ) -> None:
        for version in ("2", "10"):
            shutil.copytree(saved_models["python"].version, tmp_path / version)
        with servable.load(tmp_path) as model:
            assert model.path == tmp_path / "10"
        with servable.load(tmp_path / "2") as model:
            assert model.path == tmp_path / "2"

    def test_versions_that_were_not_saved_here_are_loaded(self, demo_models: Path) -> None:
        with servable.load(demo_models / "half_plus_two") as model:
            assert (model.kind, model.class_labels) == ("tensorflow", ())
            (name,) = model.signatures["serving_default"].inputs
            assert model({name: np.array([1.0], "float32")})["y"].tolist() == [2.5]
            assert model([1.0, 2.0])["y"].tolist() == [2.5, 3.0]

    @pytest.mark.parametrize(
        ("make", "complaint"),
        [
            (lambda path: None, "there is no "),
            (lambda path: path.mkdir(), "is no model: .*a SavedModel is"),
        ],
    )
    def test_what_is_no_model_is_refused(self, make: Any, complaint: str, tmp_path: Path) -> None:
        make(tmp_path / "m")
        with pytest.raises(LoadError, match=complaint) as raised:
            servable.load(tmp_path / "m")
        assert raised.value.code is Code.NOT_FOUND

    def test_a_library_of_another_release_is_refused_where_only_one_can_read_the_model(
        self, saved_models: Mapping[str, Saved], tmp_path: Path
    ) -> None:
        version = tmp_path / "1"
        shutil.copytree(saved_models["python"].version, version)
        document = json.loads((version / MANIFEST_FILE).read_text())
        document["requires"] = {"numpy": "0.9"}
        (version / MANIFEST_FILE).write_text(json.dumps(document))
        with pytest.raises(LoadError, match=r"needs numpy 0\.9, and .* is installed; install it"):
            servable.load(tmp_path)
        document["requires"] = {"no-such-distribution": "1.9"}
        (version / MANIFEST_FILE).write_text(json.dumps(document))
        with pytest.raises(LoadError, match=r"needs no-such-distribution 1\.9, which is not"):
            servable.load(tmp_path)


class TestImports:
    def test_the_package_imports_no_framework_and_neither_does_saving_a_function(
        self, tmp_path: Path
    ) -> None:
        program = (
            "import sys, servable\n"
            "assert 'numpy' not in sys.modules, 'numpy'\n"
            "sys.path.insert(0, sys.argv[1])\n"
            "import save_models\n"
            "save_models.main(__import__('pathlib').Path(sys.argv[2]), 'python')\n"
            "frameworks = 'tensorflow keras onnxruntime xgboost lightgbm torch jax'.split()\n"
            "found = [name for name in frameworks if name in sys.modules]\n"
            "assert not found, found\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, SAVE_MODELS.parent, tmp_path],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
