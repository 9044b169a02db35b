"""LightGBM: boosters and the estimators around them, in the format of the library."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from servable.errors import SaveError
from servable.saving._boosting import answers, predictions_name, rows_of
from servable.saving._conversion import Conversion, required
from servable.saving._example import Example, array_of
from servable.saving._kinds.sklearn import class_labels

MODEL_FILE = "model.txt"


def convert(model: Any, example: Example, directory: Path) -> Conversion:
    """Write `model.txt`; the server runs it with the same library."""
    lightgbm = required("lightgbm", "lightgbm")
    is_estimator = hasattr(model, "booster_")
    booster = model.booster_ if is_estimator else model
    if not isinstance(booster, lightgbm.Booster):
        raise SaveError(f"got a {type(model).__name__}, want a Booster or an estimator of LightGBM")
    objective = str(booster.params.get("objective", "")) or _objective(booster)
    names = tuple(map(str, booster.feature_name()))
    has_names = names != tuple(f"Column_{number}" for number in range(len(names)))
    if example.names is not None:
        # As LightGBM does with the names of columns.
        example = replace(example, names=tuple(re.sub(r"\s", "_", name) for name in example.names))
    rows = rows_of(example, names if has_names else None, "float64")
    expected = (
        _of_estimator(model, rows.given, objective)
        if is_estimator
        else answers(booster.predict(rows.given), objective)
    )
    booster.save_model(directory / MODEL_FILE)
    return Conversion(
        kind="lightgbm",
        platform="lightgbm",
        inputs=rows.inputs,
        signature_name=rows.signature_name,
        expected={name: array_of(value, name) for name, value in expected.items()},
        libraries=("lightgbm",),
        feature_names=names if has_names else (),
        class_labels=class_labels(model),
    )


def _of_estimator(model: Any, given: Any, objective: str) -> Mapping[str, Any]:
    predicted = model.predict(given)
    if not hasattr(model, "predict_proba"):
        return {predictions_name(objective): predicted}
    return {"labels": predicted, "probabilities": model.predict_proba(given)}


def _objective(booster: Any) -> str:
    """The objective of a booster that was read from a file."""
    lines = booster.model_to_string(num_iteration=1).splitlines()
    found = (line.partition("=")[2] for line in lines if line.startswith("objective="))
    return next(found, "").partition(" ")[0]
