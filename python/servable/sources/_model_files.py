"""Explains files that are not served: those given as a base path, and those found in place of versions."""

from __future__ import annotations

import os
from collections.abc import Iterable

_SAVE = "write a version that is served: `servable.save({model}, {base_path!r}, example=x)`"
_LOAD_AND_SAVE = f"load it in Python, and {_SAVE.replace('{model}', 'model')}"
_KERAS = f"a Keras model; {_SAVE.replace('{model}', 'keras.saving.load_model({file!r})')}"
_CODE = 'serve it with a few lines of Python (model_platform: "python"): a `model.py` that loads it'
_PICKLE = f"a pickled object, which runs code when it is loaded; {_LOAD_AND_SAVE}"
_WEIGHTS = f"the weights of a model; {_LOAD_AND_SAVE}, or {_CODE}"
_ARCHIVE = "an archive; unpack it, archives are not served"
_SERVED = "served by `servable {file}`, or with model_platform: "
_TORCH = f'a PyTorch model, {_SERVED}"torch"'
_FORMATS = {
    ".keras": _KERAS,
    ".h5": _KERAS,
    ".hdf5": _KERAS,
    ".onnx": f'an ONNX model, {_SERVED}"onnx"',
    ".tflite": f'a TensorFlow Lite model, {_SERVED}"tflite"',
    ".ubj": f'an XGBoost model, {_SERVED}"xgboost"',
    ".pb": "a graph without the rest of a SavedModel; export the model as a SavedModel",
    ".pt": _TORCH,
    ".pt2": _TORCH,
    ".pth": f"a pickled object of PyTorch; {_LOAD_AND_SAVE}",
    ".cbm": f"a CatBoost model; {_LOAD_AND_SAVE}",
    ".ckpt": f"a checkpoint; {_LOAD_AND_SAVE}",
    ".safetensors": _WEIGHTS,
    ".gguf": f"the weights of a model; {_CODE}",
    ".model": f"a model in an older format, of XGBoost or another library; {_LOAD_AND_SAVE}",
    ".pkl": _PICKLE,
    ".pickle": _PICKLE,
    ".joblib": _PICKLE,
    ".py": 'the code of a model; a version directory holds it as `model.py`, with model_platform: "python"',
    ".zip": _ARCHIVE,
    ".mar": _ARCHIVE,
    ".tar": _ARCHIVE,
    ".tgz": _ARCHIVE,
    ".gz": _ARCHIVE,
}  # fmt: skip
"""The format of a file, and what to do, by suffix. In braces: the file, and a base path to write to."""

_OF_SAVED_MODELS = frozenset({"saved_model.pb", "saved_model.pbtxt"})
_WANTED = "a base path is a directory that holds a numbered directory for each version"


def explain_file(path: str) -> str:
    """Explain a file that was given as a base path: its kind, and what to give instead.

    Args:
        path: Its path, or its URL.
    """
    directory, file = os.path.split(path)
    if file in _OF_SAVED_MODELS:
        return f"{file} is the graph of a SavedModel; the base path is the directory that holds it, {directory or '.'}"
    return f"{name_format(path) or f'{file} is a file'}; {_WANTED}"


def name_format(path: str) -> str:
    """The format of a model file by its suffix, and what to do with it; empty for other files."""
    text = _format(path)
    return f"{os.path.basename(path)} is {text}" if text else ""


def explain_files(directory: str, names: Iterable[str]) -> str:
    """Explain the first file of a directory that is a model of a kind not served this way; empty if there is none.

    Args:
        directory: A directory without versions.
        names: Its entries.
    """
    for name in sorted(names):
        is_script = name.endswith(".py") and name != "model.py"
        if is_script or name in _OF_SAVED_MODELS:
            continue
        if explanation := name_format(f"{directory}/{name}"):
            return explanation
    return ""


def has_known_suffix(path: str) -> bool:
    """Whether a path has the suffix of a model file."""
    return bool(_format(path)) or os.path.basename(path) in _OF_SAVED_MODELS


def _format(path: str) -> str:
    base_path, suffix = os.path.splitext(path)
    if os.path.basename(base_path) == "model":  # which its directory names
        base_path = os.path.dirname(path) or "."
    return _FORMATS.get(suffix.lower(), "").format(file=path, base_path=base_path)
