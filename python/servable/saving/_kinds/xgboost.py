"""XGBoost: boosters and the estimators around them, in the format of the library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servable.errors import SaveError
from servable.saving._boosting import answers, predictions_name, rows_of
from servable.saving._conversion import Conversion, required
from servable.saving._example import Example, array_of
from servable.saving._kinds.sklearn import class_labels

MODEL_FILE = "model.ubj"


def convert(model: Any, example: Example, directory: Path) -> Conversion:
    """Write `model.ubj`; the server runs it with the same library."""
    xgboost = required("xgboost", "xgboost")
    is_estimator = hasattr(model, "get_booster")
    booster = model.get_booster() if is_estimator else model
    if not isinstance(booster, xgboost.Booster):
        raise SaveError(f"got a {type(model).__name__}, want a Booster or an estimator of XGBoost")
    objective = str(json.loads(booster.save_config())["learner"]["objective"]["name"])
    rows = rows_of(example, booster.feature_names, "float32")
    expected = (
        _of_estimator(model, rows.given, objective)
        if is_estimator
        else _of_booster(xgboost, booster, rows.given, objective)
    )
    booster.save_model(directory / MODEL_FILE)
    return Conversion(
        kind="xgboost",
        platform="xgboost",
        inputs=rows.inputs,
        signature_name=rows.signature_name,
        expected={name: array_of(value, name) for name, value in expected.items()},
        libraries=("xgboost",),
        feature_names=tuple(booster.feature_names or ()),
        class_labels=class_labels(model),
    )


def _of_estimator(model: Any, given: Any, objective: str) -> Mapping[str, Any]:
    predicted = model.predict(given)
    if not hasattr(model, "predict_proba"):
        return {predictions_name(objective): predicted}
    if objective in ("multi:softmax", "binary:hinge"):
        return {"labels": predicted}
    return {"labels": predicted, "probabilities": model.predict_proba(given)}


def _of_booster(xgboost: Any, booster: Any, given: Any, objective: str) -> Mapping[str, Any]:
    # A matrix has no names, and those of the model are in the order of its columns.
    names = None if hasattr(given, "columns") else booster.feature_names
    matrix = xgboost.DMatrix(given, feature_names=names, enable_categorical=True)
    best = booster.attr("best_iteration")
    end = 0 if best is None else int(best) + 1
    return answers(booster.predict(matrix, iteration_range=(0, end)), objective)
