"""Runs the Python function of a model that MLflow wrote, in a worker process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servable.loaders._derived_signatures import derived_signature
from servable.loaders._estimators import decoded
from servable.loaders._function import loading
from servable.loaders._mlflow_signature import PREDICTIONS, Description, read_description
from servable.loaders._wheels import require_package
from servable.signature import DEFAULT_SIGNATURE, Signature


def require_mlflow() -> None:
    """Check early that models can be read.

    Raises:
        LoadError: MLflow is not installed.
    """
    require_package("MLflow", "mlflow", extra="mlflow")


def open_mlflow(directory: Path) -> MLflowModel:
    """Open a model. This runs any code that its author chose.

    Raises:
        LoadError: It cannot be read.
    """
    require_mlflow()
    description = read_description(directory)
    # MLflow reports its use to its makers otherwise.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with loading(directory):
        import mlflow.pyfunc

        return MLflowModel(mlflow.pyfunc.load_model(str(directory)), description)


class MLflowModel:
    """An open model; see `servable.loaders.FunctionModel`."""

    is_repeatable = True

    def __init__(self, model: Any, description: Description) -> None:
        """Find the signature of a model.

        Args:
            model: An `mlflow.pyfunc.PyFuncModel`.
            description: The inputs and outputs that it describes.

        Raises:
            LoadError: Its outputs cannot be served.
            Exception: Raised by the model for zeros, if its outputs are not described.
        """
        self._model = model
        self._inputs = description.inputs
        self._outputs = description.outputs
        specs = description.inputs.specs
        if description.outputs is None:
            signature = derived_signature(specs, self._run)
        else:
            signature = Signature(specs, description.outputs.specs)
        self.signatures = {DEFAULT_SIGNATURE: signature}

    def run(self, signature_name: str, inputs: Mapping[str, Any], deadline: float) -> Any:
        """Predict a batch."""
        del signature_name, deadline
        return self._run(inputs)

    def close(self) -> None:
        """Leave the memory to the process."""

    def _run(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._named(self._model.predict(self._given(inputs)))

    def _given(self, inputs: Mapping[str, Any]) -> Any:
        """The inputs as the model takes them: a data frame, arrays by name, or one array."""
        fields = self._inputs
        # Copies: models may change what they get.
        arrays = {
            name: decoded(inputs[name]) if name in fields.text else inputs[name].copy()
            for name in fields.specs
        }
        if fields.are_columns:
            import pandas

            frame = pandas.DataFrame(arrays)
            return frame if fields.are_named else frame.iloc[:, 0]
        if fields.are_named:
            return arrays
        (array,) = arrays.values()
        return array

    def _named(self, answer: Any) -> Mapping[str, Any]:
        import numpy as np

        if hasattr(answer, "columns"):
            named = {str(column): np.asarray(answer[column]) for column in answer.columns}
        elif isinstance(answer, Mapping):
            named = {str(name): np.asarray(value) for name, value in answer.items()}
        else:
            named = {PREDICTIONS: np.asarray(answer)}
        wanted = () if self._outputs is None else tuple(self._outputs.specs)
        if len(named) == len(wanted) == 1:
            return dict(zip(wanted, named.values(), strict=True))
        matrix = named.get(PREDICTIONS)
        if len(wanted) > 1 and matrix is not None and matrix.shape[1:] == (len(wanted),):
            return dict(zip(wanted, matrix.T, strict=True))
        return named
