"""Train a small model of a native runtime: `python export_native_models.py DIRECTORY MODEL`.

A model is named by its kind: `onnx_small`, `tflite_small`, `xgboost_small`, `lightgbm_small`. It is written to
`DIRECTORY/MODEL/1`. `DIRECTORY/MODEL.json` is a row of its input with the numbers that its library computes from it.

One model a process: not all libraries can be imported beside each other.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Answer = tuple[Sequence[float], Any]
"""A row, and what the library makes of it."""

ROUNDS = 33
"""Of boosting: each adds a tree for each of three classes."""


def onnx_small(version: Path) -> Answer:
    """A pipeline of scikit-learn, as `skl2onnx` writes it."""
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = flowers()
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, y)
    model = to_onnx(pipeline, x[:1], options={"zipmap": False})
    (version / "model.onnx").write_bytes(model.SerializeToString())
    return x[0].tolist(), pipeline.predict_proba(x[:1])


def tflite_small(version: Path) -> Answer:
    """Two dense layers."""
    import tensorflow as tf

    random = np.random.default_rng(0)
    first, second = (random.normal(0, 1, shape).astype(np.float32) for shape in ((4, 16), (16, 3)))

    class Dense(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")])
        def compute(self, x: Any) -> Any:
            return {"y": tf.matmul(tf.nn.relu(tf.matmul(x, first)), second)}

    module, row = Dense(), flowers()[0][:1]
    function = module.compute.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    (version / "model.tflite").write_bytes(converter.convert())
    return row[0].tolist(), module.compute(tf.constant(row))["y"].numpy()


def xgboost_small(version: Path) -> Answer:
    """A hundred small trees."""
    import xgboost as xgb

    x, y = flowers()
    parameters = {"objective": "multi:softprob", "num_class": 3, "max_depth": 4, "seed": 0}
    booster = xgb.train(parameters, xgb.DMatrix(x, y), ROUNDS)
    booster.save_model(version / "model.ubj")
    return x[0].tolist(), booster.inplace_predict(x[:1])


def lightgbm_small(version: Path) -> Answer:
    """A hundred small trees."""
    import lightgbm as lgb

    x, y = flowers()
    parameters = {"objective": "multiclass", "num_class": 3, "seed": 0, "verbose": -1}
    booster = lgb.train(parameters, lgb.Dataset(x.astype(np.float64), y), ROUNDS)
    booster.save_model(version / "model.txt")
    return x[0].tolist(), booster.predict(x[:1])


def flowers() -> tuple[Any, Any]:
    """The data set that every introduction uses."""
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    return x.astype(np.float32), y.astype(np.int64)


MODELS: dict[str, Callable[[Path], Answer]] = {
    function.__name__: function
    for function in (onnx_small, tflite_small, xgboost_small, lightgbm_small)
}


def main(directory: str, name: str) -> None:
    """Write one model, and what it answers."""
    version = Path(directory, name, "1")
    version.mkdir(parents=True, exist_ok=True)
    row, answer = MODELS[name](version)
    described = {"row": list(row), "numbers": np.asarray(answer).flatten().tolist()}
    Path(directory, f"{name}.json").write_text(json.dumps(described))


if __name__ == "__main__":
    main(*sys.argv[1:])
