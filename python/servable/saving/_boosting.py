"""What the libraries of boosted trees have in common: matrices and tables, objectives, and names of outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from servable.errors import SaveError
from servable.saving._example import Example
from servable.signature import DEFAULT_SIGNATURE

_MATRIX = "inputs"
_COLUMNS = "columns"
"""The signature with one input a feature."""


@dataclass(frozen=True)
class Rows:
    """An example for a model of boosted trees.

    Attributes:
        given: What the original gets.
        inputs: What clients send.
        signature_name: The signature that takes it.
    """

    given: Any
    inputs: Mapping[str, Any]
    signature_name: str = DEFAULT_SIGNATURE


def rows_of(example: Example, feature_names: Sequence[str] | None, dtype: str) -> Rows:
    """Read an example.

    Args:
        example: A matrix, a data frame, or one array a feature.
        feature_names: The features of the model, if it has names.
        dtype: The dtype of its numbers.

    Raises:
        SaveError: It does not fit the model.
    """
    is_matrix = len(example.arrays) == 1 and example.arrays[0].ndim == 2
    if is_matrix:
        matrix = example.matrix().astype(dtype)
        return Rows(matrix, {_MATRIX: matrix})
    names = example.names or ()
    if not names:
        raise SaveError(f"example: got {len(example.arrays)} arrays without names, want one matrix")
    if feature_names is not None and set(names) != set(feature_names):
        raise SaveError(
            f"example: got the features {', '.join(names)}, want {', '.join(feature_names)}"
        )
    columns = {
        name: array if array.dtype == object else array.astype(dtype)
        for name, array in example.named(()).items()
    }
    if feature_names is None:
        matrix = np.stack(list(columns.values()), axis=1)
        return Rows(matrix, {_MATRIX: matrix})
    if example.is_table:
        original = dict(zip(names, example.given.columns, strict=True))
        return Rows(example.given[[original[name] for name in feature_names]], columns, _COLUMNS)
    return Rows(np.stack([columns[name] for name in feature_names], axis=1), columns, _COLUMNS)


def answers(raw: Any, objective: str) -> Mapping[str, Any]:
    """The outputs of a model without a class of scikit-learn, by the names that clients see.

    Args:
        raw: What its library predicts.
        objective: The objective, in the words of either library.
    """
    raw = np.asarray(raw)
    if objective in ("binary", "binary:logistic", "cross_entropy") and raw.ndim == 1:
        return {
            "labels": (raw > 0.5).astype("int64"),
            "probabilities": np.stack([1 - raw, raw], axis=1),
        }
    if objective in ("multiclass", "multiclassova", "multi:softprob") and raw.ndim == 2:
        return {"labels": raw.argmax(axis=1), "probabilities": raw}
    if objective in ("multi:softmax", "binary:hinge"):
        return {"labels": raw.astype("int64")}
    return {predictions_name(objective): raw}


def predictions_name(objective: str) -> str:
    """The name of outputs that are no classes."""
    is_ranking = objective.startswith(("rank:", "lambdarank", "rank_xendcg"))
    return "scores" if is_ranking else "predictions"
