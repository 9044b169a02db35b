from __future__ import annotations

from pathlib import Path

import pytest

from servable.sources._filesystem import FileSystemSource, MonitoredServable
from servable.sources._model_files import explain_file, explain_files, has_known_suffix
from servable.testing import RecordingTarget

KINDS = [
    ("m.keras", "m.keras is a Keras model; export it as a SavedModel: "),
    ("M.H5", "M.H5 is a Keras model; "),
    ("m.onnx", "m.onnx is an ONNX model; serve it with a few lines of Python"),
    ("m.tflite", "m.tflite is a TensorFlow Lite model; "),
    (
        "saved_model.pb",
        "saved_model.pb is the graph of a SavedModel; the base path is the directory",
    ),
    ("frozen.pb", "frozen.pb is a graph without the rest of a SavedModel; "),
    ("m.pt", "m.pt is a PyTorch model; "),
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


def test_the_command_that_exports_a_keras_model_has_its_paths() -> None:
    assert explain_file("/models/m.keras").startswith(
        "m.keras is a Keras model; export it as a SavedModel: "
        "`keras.saving.load_model('/models/m.keras').export('/models/1')`"
    )


def test_the_command_that_exports_a_keras_model_works_for_a_relative_path() -> None:
    assert ".export('1')`" in explain_file("m.keras")


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
