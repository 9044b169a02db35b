"""Estimators of scikit-learn and libraries like it, run by Python: the ones that have no conversion."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from servable.errors import Code, InvalidInputError, LoadError
from servable.loaders._description import UndescribedError
from servable.loaders._manifest import Manifest, read_manifest
from servable.signature import DATA_TYPES, DEFAULT_SIGNATURE, Signature, TensorSpec

MATRIX = "inputs"
"""The name of the input of a model that takes a matrix."""


def answers(model: Any, given: Any) -> dict[str, Any]:
    """What an estimator answers, by the names that clients see.

    Args:
        model: The estimator.
        given: A matrix or a data frame.

    Raises:
        LoadError: It has no method that answers a request, or one with several outputs.
    """
    found: dict[str, Any] = {}
    if hasattr(model, "predict"):
        found[_prediction(model)] = model.predict(given)
        if hasattr(model, "predict_proba"):
            found["probabilities"] = model.predict_proba(given)
    elif hasattr(model, "transform"):
        found["values"] = model.transform(given)
    else:
        raise _unusable(f"got a {type(model).__name__}, want one with `predict` or `transform`")
    for name, value in found.items():
        if isinstance(value, list):
            raise _unusable(f"got {len(value)} outputs of `predict_proba`, want one")
        if hasattr(value, "toarray"):
            found[name] = value.toarray()
    return found


def _prediction(model: Any) -> str:
    if hasattr(model, "classes_"):
        return "labels"
    from sklearn.base import is_regressor

    return "predictions" if is_regressor(model) else "labels"


class EstimatorModel:
    """An open estimator; see `servable.loaders.FunctionModel`."""

    is_repeatable = True

    def __init__(self, directory: Path, read: Callable[[Path], Any]) -> None:
        """Read an estimator.

        Args:
            directory: The version.
            read: Reads it from the directory.

        Raises:
            LoadError: It is no estimator, or cannot be read.
        """
        manifest = read_manifest(directory)
        with warnings.catch_warnings():
            _require_one_release()
            self._estimator = read(directory)
        self.signatures: Mapping[str, Signature] = (
            _derived(self._estimator) if manifest is None else manifest.signatures
        )

    def run(self, signature_name: str, inputs: Mapping[str, Any], deadline: float) -> Any:
        """Predict or transform a batch."""
        del deadline
        return _as_arrays(answers(self._estimator, self._given(signature_name, inputs)))

    def _given(self, signature_name: str, inputs: Mapping[str, Any]) -> Any:
        import numpy as np

        specs = self.signatures[signature_name].inputs
        text = {
            name: decoded(inputs[name]) for name, spec in specs.items() if spec.dtype == "bytes"
        }
        arrays = {**inputs, **text}
        if len(specs) == 1:
            (array,) = arrays.values()
            return array
        names = getattr(self._estimator, "feature_names_in_", None)
        if names is None:
            return np.stack([arrays[name] for name in specs], axis=1)
        import pandas

        return pandas.DataFrame({name: arrays[name] for name in names})

    def close(self) -> None:
        """Leave the memory to the garbage collector."""


def _require_one_release() -> None:
    """Refuse what another release of scikit-learn wrote: its attributes may mean something else."""
    try:
        from sklearn.exceptions import InconsistentVersionWarning
    except ImportError:  # reading the estimator reports it
        return
    warnings.simplefilter("error", InconsistentVersionWarning)


def decoded(array: Any) -> Any:
    """An array of bytes as one of text.

    Raises:
        InvalidInputError: An element is not UTF-8.
    """
    import numpy as np

    try:
        text = [each.decode() for each in array.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"got bytes that are no UTF-8: {error}") from error
    decoded = np.empty(len(text), object)
    decoded[:] = text
    return decoded.reshape(array.shape)


def _as_arrays(outputs: Mapping[str, Any]) -> Mapping[str, Any]:
    import numpy as np

    return {name: np.asarray(value) for name, value in outputs.items()}


def _derived(estimator: Any) -> Mapping[str, Signature]:
    """A signature of one matrix, with the outputs for a row of zeros."""
    import numpy as np

    count = getattr(estimator, "n_features_in_", None)
    if not isinstance(count, int):
        raise _unusable(
            f"got a {type(estimator).__name__} whose inputs are unknown; save it with `servable.save`"
        )
    try:
        outputs = _as_arrays(answers(estimator, np.zeros((1, count))))
    except (TypeError, ValueError) as error:
        raise _unusable(
            f"{type(estimator).__name__} takes no matrix of numbers ({error}); save it with `servable.save`"
        ) from error
    specs = {
        name: TensorSpec(
            array.dtype.name if array.dtype.name in DATA_TYPES else "bytes",
            [None, *array.shape[1:]],
        )
        for name, array in outputs.items()
    }
    return {DEFAULT_SIGNATURE: Signature({MATRIX: TensorSpec("float64", [None, count])}, specs)}


def described(directory: str) -> Manifest:
    """The manifest of a version that must not be read to describe it.

    Args:
        directory: The version, which may be a single file.

    Raises:
        UndescribedError: There is none.
        LoadError: It is damaged.
    """
    manifest = read_manifest(directory) if os.path.isdir(directory) else None
    if manifest is None:
        raise UndescribedError(
            f"{directory} has no servable.json; its signature is known once it is loaded"
        )
    return manifest


def _unusable(message: str) -> LoadError:
    return LoadError(message, code=Code.INVALID_ARGUMENT, may_pass=False)
