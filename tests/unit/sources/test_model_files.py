from __future__ import annotations

from pathlib import Path

import pytest

from servable.sources._filesystem import FileSystemSource, MonitoredServable
from servable.sources._model_files import explain_file, explain_files, has_known_suffix
from servable.testing import RecordingTarget

KINDS = [
    ("m.keras", "m.keras is a Keras model; write a version that is served: "),
    ("M.H5", "M.H5 is a Keras model; "),
    ("m.onnx", "m.onnx is an ONNX model, served by `servable "),
    ("m.tflite", "m.tflite is a TensorFlow Lite model, served by `servable "),
    (
        "saved_model.pb",
        "saved_model.pb is the graph of a SavedModel; the base path is the directory",
    ),
    ("frozen.pb", "frozen.pb is a graph without the rest of a SavedModel; "),
    ("m.pt", "m.pt is a PyTorch model, served by `servable "),
    ("m.pth", "m.pth is a pickled object of PyTorch; "),
    ("m.joblib", "m.joblib is a pickled object, which runs code when it is loaded; "),
    ("m.cbm", "m.cbm is a CatBoost model; "),
    ("m.ubj", "m.ubj is an XGBoost model, served by `servable "),
    ("m.tar.gz", "m.tar.gz is an archive; unpack it"),
    ("model.py", "model.py is the code of a model; "),
]


@pytest.mark.parametrize(("name", "explanation"), KINDS)
def test_a_file_as_base_path_is_explained_with_the_remedy(
    name: str, explanation: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.touch()
    assert explain_file(str(file)).startswith(explanation)
    assert has_known_suffix(str(file))
    source = FileSystemSource([MonitoredServable("m", str(file))], poll_wait_seconds=-1)
    source.connect(RecordingTarget())
    source.poll()
    problem = source.problems()["m"].message
    assert problem.startswith(f"Could not find base path {file} for servable m with error ")
    assert f"; {explanation}" in problem


@pytest.mark.parametrize(
    ("file", "base_path"),
    [
        ("/models/m.keras", "/models/m"),
        ("m.keras", "m"),
        ("/m/model.keras", "/m"),
        ("model.h5", "."),
    ],
)
def test_the_command_that_saves_a_model_has_its_paths(file: str, base_path: str) -> None:
    load = f"keras.saving.load_model({file!r})"
    assert f"`servable.save({load}, {base_path!r}, example=x)`" in explain_file(file)
    clf = file.rpartition(".")[0] + ".pkl"
    assert f"`servable.save(model, {base_path!r}, example=x)`" in explain_file(clf)


def test_other_files_are_explained_too(tmp_path: Path) -> None:
    assert explain_file("/models/m") == (
        "m is a file; a base path is a directory that holds a numbered directory for each version"
    )
    assert not has_known_suffix("/models/m")


def test_a_base_path_without_versions_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "m.keras").touch()
    (tmp_path / "export.py").touch()
    source = FileSystemSource([MonitoredServable("m", str(tmp_path))], poll_wait_seconds=-1)
    source.connect(RecordingTarget())
    source.poll()
    assert source.problems()["m"].message.startswith(
        f"Unable to find a numerical version path for servable m at: {tmp_path}; m.keras is a Keras "
    )
    assert explain_files("/m", ["export.py", "README"]) == ""
