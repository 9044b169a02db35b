"""Trains small models, and writes them by MLflow.

usage: log_mlflow_models.py OUTPUT_DIRECTORY

Each model gets the base path OUTPUT_DIRECTORY/NAME with version 1. OUTPUT_DIRECTORY/NAME.json has inputs, and what the
model answers for them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import mlflow.sklearn
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import Schema, TensorSpec
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
PICKLED: Any = {"serialization_format": "cloudpickle", "pip_requirements": ["scikit-learn"]}


class Ranges(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow has no types here
    """Its own code, with two outputs by name."""

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # MLflow reads types
        """Return the smallest and the largest value of each row."""
        del context, params
        return {"least": model_input.min(axis=1), "most": model_input.max(axis=1)}


def main(output: Path) -> None:
    """Train and write."""
    iris = load_iris()
    species = iris.target_names[iris.target]

    def record(name: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        arrays = {
            part: {key: np.asarray(value).tolist() for key, value in values.items()}
            for part, values in (("inputs", inputs), ("outputs", outputs))
        }
        (output / f"{name}.json").write_text(json.dumps(arrays))

    def base_path(name: str) -> str:
        (output / name).mkdir(parents=True)
        return str(output / name / "1")

    # Columns of numbers and text; the outputs are described by a column without a name.
    frame = pd.DataFrame(
        {
            "petal length (cm)": iris.data[:, 2],
            "colour": np.array(["white", "blue"], object)[(iris.data[:, 1] > 3).astype(int)],
        }
    )
    columns = make_column_transformer((OneHotEncoder(), ["colour"]), remainder="passthrough")
    model = make_pipeline(columns, LogisticRegression()).fit(frame, species)
    signature = infer_signature(frame, model.predict(frame))
    mlflow.sklearn.save_model(model, base_path("columns"), signature=signature, **PICKLED)
    record("columns", frame[::11], {"predictions": model.predict(frame[::11])})

    # One tensor, and outputs that are not described.
    features = iris.data.astype("float64")
    matrix = LogisticRegression(max_iter=1000).fit(features, iris.target)
    inputs = Schema([TensorSpec(np.dtype("float64"), (-1, 4))])
    mlflow.sklearn.save_model(
        matrix, base_path("matrix"), signature=ModelSignature(inputs), **PICKLED
    )
    record("matrix", {"inputs": features[::11]}, {"predictions": matrix.predict(features[::11])})

    # Code of the model itself.
    outputs = Schema([TensorSpec(np.dtype("float32"), (-1,), name) for name in ("least", "most")])
    inputs = Schema([TensorSpec(np.dtype("float32"), (-1, 4))])
    mlflow.pyfunc.save_model(
        base_path("code"), python_model=Ranges(), signature=ModelSignature(inputs, outputs)
    )
    rows = features[::11].astype("float32")
    record("code", {"inputs": rows}, {"least": rows.min(axis=1), "most": rows.max(axis=1)})

    # No signature at all.
    mlflow.sklearn.save_model(matrix, base_path("undescribed"), **PICKLED)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
