"""The contract of the files in `_kinds`, and how the one for a model is found."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from servable.errors import SaveError
from servable.loaders._manifest import Label
from servable.saving._example import Example
from servable.signature import DEFAULT_SIGNATURE, Signature

_KINDS = {
    "catboost": "catboost",
    "jax": "jax",
    "jaxlib": "jax",
    "keras": "keras",
    "lightgbm": "lightgbm",
    "onnx": "onnx",
    "sklearn": "sklearn",
    "tensorflow": "tensorflow",
    "torch": "torch",
    "xgboost": "xgboost",
}
"""The file in `_kinds` for classes of a top-level package."""

_DISTRIBUTIONS = {
    "ai-edge-litert": ("ai-edge-litert", "ai-edge-litert-nightly"),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tensorflow": ("tensorflow", "tensorflow-cpu", "tf-nightly"),
    "xgboost": ("xgboost", "xgboost-cpu"),
}
"""Distributions that provide the same library under several names."""


@dataclass(frozen=True)
class Conversion:
    """A model that was written into a directory.

    Attributes:
        kind: The framework of the original.
        platform: The platform that serves the files.
        inputs: The example, as the inputs of the signature.
        expected: The outputs of the original for it, by the names of the signature.
        libraries: The distributions that wrote it or will run it.
        requires: The releases that libraries must have to read it; see `Manifest`.
        feature_names: The names of the columns, if they are known.
        class_labels: The labels of a classifier, in the order of its scores.
        signature_name: The signature that takes the example.
        signatures: The signatures, for a platform that reads them from the manifest.
    """

    kind: str
    platform: str
    inputs: Mapping[str, Any]
    expected: Mapping[str, Any]
    libraries: tuple[str, ...]
    requires: Mapping[str, str] = field(default_factory=dict)
    feature_names: tuple[str, ...] = ()
    class_labels: tuple[Label, ...] = ()
    signature_name: str = DEFAULT_SIGNATURE
    signatures: Mapping[str, Signature] = field(default_factory=dict)


Convert: TypeAlias = Callable[[Any, Example, Path], Conversion]
"""Writes a model into a directory. Raises `SaveError` if it cannot be converted."""


def converter_of(model: object) -> Convert:
    """The function that converts a model, by the module of its class or of a base class.

    Raises:
        SaveError: Models of this type cannot be saved.
    """
    name = _kind_of(model)
    found: Convert = importlib.import_module(f"servable.saving._kinds.{name}").convert
    return found


def _kind_of(model: object) -> str:
    for base in type(model).__mro__:
        kind = _KINDS.get(base.__module__.partition(".")[0])
        if kind is not None:
            return kind
    if isinstance(model, (bytes, bytearray, memoryview)):
        return "tflite"
    if callable(model):
        return "python"
    named = type(model)
    raise SaveError(
        f"got an object of type {named.__module__}.{named.__qualname__}; want a model of "
        f"{', '.join(sorted({*_KINDS.values()}))}, the bytes of a TFLite model, or a function of arrays"
    )


def required(module: str, extra: str) -> Any:
    """Import a package that a conversion needs.

    Args:
        module: The module.
        extra: The extra of this package that contains it, or the distribution itself in quotes.

    Raises:
        SaveError: It is not installed; the message has the command.
    """
    try:
        found: ModuleType = importlib.import_module(module)
    except ImportError as error:
        package = extra if extra.startswith("'") else f"'servable[{extra}]'"
        raise SaveError(
            f"the conversion needs {module}, which cannot be imported ({error}); "
            f"install it with `pip install {package}`"
        ) from error
    return found


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution, under any of its names; `None` if it is not installed."""
    for name in _DISTRIBUTIONS.get(distribution, (distribution,)):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
