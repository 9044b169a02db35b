"""Explains files that are not served: those given as a base path, and those found in place of versions."""

from __future__ import annotations

import os
from collections.abc import Iterable

_KERAS = (
    "a Keras model; export it as a SavedModel: "
    "`keras.saving.load_model({file!r}).export('{version}')`"
)
_CODE = 'serve it with a few lines of Python (model_platform: "python"): a `model.py` that loads it'
_ARCHIVE = "an archive; unpack it, archives are not served"
_KINDS = {
    ".keras": _KERAS,
    ".h5": _KERAS,
    ".hdf5": _KERAS,
    ".onnx": f"an ONNX model; {_CODE} with onnxruntime",
    ".tflite": "a TensorFlow Lite model; export the model that it was converted from as a SavedModel, "
    f"or {_CODE} with its interpreter",
    ".pb": "a graph without the rest of a SavedModel; export the model as a SavedModel",
    ".pt": f"a PyTorch model; {_CODE}",
    ".pth": f"a PyTorch model; {_CODE}",
    ".pt2": f"a PyTorch model; {_CODE}",
    ".ckpt": f"a checkpoint; export the model as a SavedModel, or {_CODE}",
    ".safetensors": f"the weights of a model; {_CODE}",
    ".gguf": f"the weights of a model; {_CODE}",
    ".pkl": f"a pickled object; {_CODE}",
    ".pickle": f"a pickled object; {_CODE}",
    ".joblib": f"a pickled object; {_CODE}",
    ".py": 'the code of a model; a version directory holds it as `model.py`, with model_platform: "python"',
    ".zip": _ARCHIVE,
    ".mar": _ARCHIVE,
    ".tar": _ARCHIVE,
    ".tgz": _ARCHIVE,
    ".gz": _ARCHIVE,
}  # fmt: skip
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
    """The format of a model file that is not served as it is, and what to do; empty for other files."""
    kind = _kind(path)
    return f"{os.path.basename(path)} is {kind}" if kind else ""


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
    return bool(_kind(path)) or os.path.basename(path) in _OF_SAVED_MODELS


def _kind(path: str) -> str:
    directory, file = os.path.split(path)
    kind = _KINDS.get(os.path.splitext(file)[1].lower(), "")
    return kind.format(file=path, version=os.path.join(directory, "1")) if kind is _KERAS else kind
