"""Make a model of a native runtime: `python export_native_models.py DIRECTORY MODEL`.

KIND_small
    Is quick to run. KIND is `onnx`, `tflite`, `xgboost` or `lightgbm`.
KIND_large
    A row costs more than 400 µs: two convolutions, or thousands of trees.
sklearn_small
    A pipeline, as `servable.save` writes it. `DIRECTORY/MODEL.joblib` is the same for other servers.

A model is written to `DIRECTORY/MODEL/1`. `DIRECTORY/MODEL.json` is a row of its input with the numbers that its
library computes from it.

One model a process: not all libraries can be imported beside each other.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HEIGHT, WIDTH, CHANNELS = 12, 10, 3
"""Of an image of 360 floats."""

Answer = tuple[Sequence[float], Any]
"""A row, and what the library makes of it."""

ROUNDS = 33
"""Of boosting: each adds a tree for each of three classes."""

LARGE_ROUNDS = 12_000
LARGE_DEPTH = 4
"""Of boosting for one number."""

FILTERS = 192
"""Of each of two convolutions."""


def sklearn_small(version: Path) -> Answer:
    """A pipeline, saved for this server and for others."""
    import joblib

    import servable

    x, y = flowers()
    pipeline = trained_pipeline(x, y)
    joblib.dump(pipeline, version.parent.with_suffix(".joblib"))
    if version.exists():
        shutil.rmtree(version)
    servable.save(pipeline, version.parent, example=x, version=1)
    return x[0].tolist(), pipeline.predict_proba(x[:1])


def onnx_small(version: Path) -> Answer:
    """A pipeline of scikit-learn, as `skl2onnx` writes it."""
    from skl2onnx import to_onnx

    x, y = flowers()
    pipeline = trained_pipeline(x, y)
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


def onnx_large(version: Path) -> Answer:
    """Two convolutions over images of 360 floats."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper, save

    first, second, dense = convolution_weights()
    constants = {
        "images": np.array([-1, HEIGHT, WIDTH, CHANNELS]),
        "first": first.transpose(3, 2, 0, 1),
        "second": second.transpose(3, 2, 0, 1),
        "dense": dense,
    }
    nodes = [
        helper.make_node("Reshape", ["x", "images"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["features"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["features", "first"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "dense"], ["g"]),
        helper.make_node("Softmax", ["g"], ["y"]),
    ]
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("x", floats, ["rows", HEIGHT * WIDTH * CHANNELS])],
        [helper.make_tensor_value_info("y", floats, ["rows", 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, ir_version=8, opset_imports=opsets)
    save(model, version / "model.onnx")
    row = image()
    session = onnxruntime.InferenceSession(version / "model.onnx")
    return row[0].tolist(), session.run(None, {"x": row})[0]


def tflite_large(version: Path) -> Answer:
    """The same convolutions."""
    import tensorflow as tf

    first, second, dense = convolution_weights()

    class Convolutions(tf.Module):
        @tf.function(
            input_signature=[tf.TensorSpec([None, HEIGHT * WIDTH * CHANNELS], tf.float32, "x")]
        )
        def compute(self, x: Any) -> Any:
            features = tf.reshape(x, [-1, HEIGHT, WIDTH, CHANNELS])
            for kernel in (first, second):
                features = tf.nn.relu(tf.nn.conv2d(features, kernel, strides=1, padding="SAME"))
            return {"y": tf.nn.softmax(tf.matmul(tf.reduce_mean(features, axis=[1, 2]), dense))}

    module, row = Convolutions(), image()
    function = module.compute.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    (version / "model.tflite").write_bytes(converter.convert())
    return row[0].tolist(), module.compute(tf.constant(row))["y"].numpy()


def xgboost_large(version: Path) -> Answer:
    """Thousands of trees for one number."""
    import xgboost as xgb

    x, y = waves()
    parameters = {"max_depth": LARGE_DEPTH, "eta": 0.01, "seed": 0, "max_bin": 16, "nthread": 1}
    booster = xgb.train(parameters, xgb.DMatrix(x, y), LARGE_ROUNDS)
    booster.save_model(version / "model.ubj")
    return x[0].tolist(), booster.inplace_predict(x[:1])


def lightgbm_large(version: Path) -> Answer:
    """Thousands of trees for one number."""
    import lightgbm as lgb

    x, y = waves()
    parameters = {
        "objective": "regression",
        "num_leaves": 2**LARGE_DEPTH,
        "min_data_in_leaf": 5,
        "learning_rate": 0.01,
        "max_bin": 15,
        "num_threads": 1,
        "seed": 0,
        "verbose": -1,
    }
    booster = lgb.train(parameters, lgb.Dataset(x.astype(np.float64), y), LARGE_ROUNDS)
    booster.save_model(version / "model.txt")
    return x[0].tolist(), booster.predict(x[:1])


def trained_pipeline(x: Any, y: Any) -> Any:
    """What introductions to scikit-learn train."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, y)


def flowers() -> tuple[Any, Any]:
    """The data set that every introduction uses."""
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    return x.astype(np.float32), y.astype(np.int64)


def waves() -> tuple[Any, Any]:
    """A thousand rows of twenty numbers, and a smooth function of them with noise, which takes many leaves."""
    random = np.random.default_rng(0)
    x = random.normal(0, 1, (1000, 20)).astype(np.float32)
    y = np.sin(3 * x[:, :5]).sum(axis=1) + random.normal(0, 1, len(x))
    return x, y


def image() -> Any:
    """A row of a random image."""
    random = np.random.default_rng(0)
    return random.random((1, HEIGHT * WIDTH * CHANNELS)).astype(np.float32)


def convolution_weights() -> list[Any]:
    """Two kernels, and a matrix."""
    random = np.random.default_rng(0)
    shapes = [(3, 3, CHANNELS, FILTERS), (3, 3, FILTERS, FILTERS), (FILTERS, 2)]
    return [
        random.normal(0, math.sqrt(2 / math.prod(shape[:-1])), shape).astype(np.float32)
        for shape in shapes
    ]


MODELS: dict[str, Callable[[Path], Answer]] = {
    function.__name__: function
    for function in (
        *(onnx_small, tflite_small, xgboost_small, lightgbm_small, sklearn_small),
        *(onnx_large, tflite_large, xgboost_large, lightgbm_large),
    )
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
