"""Trains small models on data that their libraries ship, and saves them with `servable.save`.

usage: save_models.py OUTPUT_DIRECTORY KIND...

Each kind gets a base path OUTPUT_DIRECTORY/KIND. OUTPUT_DIRECTORY/KIND.json has other inputs than the example, and
the outputs of the original for them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import servable
from servable.saving._tensors import to_json

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

EXAMPLE_ROWS = 40


@dataclass
class Trained:
    """A model to save.

    Attributes:
        model: The original.
        example: For `servable.save`.
        inputs: Other inputs, as clients send them.
        outputs: What the original answers for them.
        options: Further arguments of `servable.save`.
    """

    model: Any
    example: Any
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    options: Mapping[str, Any] | None = None


def iris() -> tuple[Any, Any, Any, Any]:
    """Flowers: training data, and other flowers in a mixed order."""
    from sklearn.datasets import load_iris

    data = load_iris()
    order = np.random.default_rng(0).permutation(len(data.target))
    features, target = data.data[order].astype("float32"), data.target[order]
    return features[:100], target[:100], features[100:], target[100:]


def keras() -> Trained:
    import keras

    keras.utils.set_random_seed(0)
    features, target, others, _ = iris()
    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Normalization(), keras.layers.Dense(3, "softmax")]
    )
    model.layers[0].adapt(features)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(features, target, epochs=3, verbose=0)
    outputs = {"output_0": np.asarray(model(others))}
    return Trained(model, features[:EXAMPLE_ROWS], {"inputs": others}, outputs)


def tensorflow() -> Trained:
    import tensorflow as tf

    features, target, others, _ = iris()
    # Least squares, with the labels as text.
    weights = np.linalg.lstsq(np.c_[features, np.ones(100)], np.eye(3)[target], rcond=None)[0]

    class Linear(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = tf.Variable(weights, dtype=tf.float32)
            self.names = tf.Variable(["setosa", "versicolor", "virginica"])

        @tf.function
        def __call__(self, features: Any, suffix: Any) -> Any:
            scores = tf.matmul(features, self.weights[:4]) + self.weights[4]
            names = tf.gather(self.names, tf.argmax(scores, axis=1))
            return {"scores": scores, "name": tf.strings.join([names, suffix])}

    model = Linear()
    suffix = np.array(["!"] * len(others))
    outputs = {name: value.numpy() for name, value in model(others, suffix).items()}
    example = (features[:EXAMPLE_ROWS], suffix[:EXAMPLE_ROWS])
    return Trained(model, example, {"features": others, "suffix": suffix}, outputs)


CENTRES = np.zeros((3, 4), "float32")


def nearest_centre(flowers: Any) -> Any:
    """The distance to each centre, and the nearest one."""
    distances = np.linalg.norm(flowers[:, None] - CENTRES, axis=2)
    return {"distances": distances, "nearest": distances.argmin(axis=1)}


def python() -> Trained:
    features, target, others, _ = iris()
    CENTRES[:] = [features[target == number].mean(axis=0) for number in range(3)]
    inputs = {"flowers": others}
    return Trained(nearest_centre, features[:EXAMPLE_ROWS], inputs, nearest_centre(others))


def sklearn() -> Trained:
    """A classifier of text labels, on a matrix."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, target, others, _ = iris()
    names = np.array(["setosa", "versicolor", "virginica"])
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(features, names[target])
    outputs = {"labels": model.predict(others), "probabilities": model.predict_proba(others)}
    return Trained(model, features[:EXAMPLE_ROWS], {"inputs": others}, outputs)


def sklearn_table() -> Trained:
    """Trees with one input a feature, in 64 bits and with missing values."""
    from sklearn.datasets import load_diabetes
    from sklearn.ensemble import HistGradientBoostingRegressor

    data = load_diabetes()
    features = data.data.copy()
    features[::7, 2] = np.nan
    model = HistGradientBoostingRegressor(max_iter=20).fit(features, data.target)
    rows = dict(zip(data.feature_names, features.T, strict=True))
    example = {name: column[:EXAMPLE_ROWS] for name, column in rows.items()}
    others = {name: column[100:150] for name, column in rows.items()}
    # REST refuses NaN.
    others = {name: np.nan_to_num(column) for name, column in others.items()}
    outputs = {"predictions": model.predict(np.stack(list(others.values()), axis=1))}
    return Trained(model, example, others, outputs)


def sklearn_text() -> Trained:
    """Text goes in, and labels come out."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    texts = ["Good soup", "bad soup", "a good bread", "awful bread", "good, good", "bad fish"]
    model = make_pipeline(CountVectorizer(), MultinomialNB()).fit(texts, [1, 0, 1, 0, 1, 0])
    others = np.array(["GOOD fish", "soup", "awful soup", "", "good", "bad", "fish", "Bad soup"])
    outputs = {"labels": model.predict(others), "probabilities": model.predict_proba(others)}
    return Trained(model, texts * 2, {"inputs": others}, outputs)


def sklearn_frame() -> Trained:
    """Columns of text and numbers, selected by their names."""
    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    features, target, _, _ = iris()
    frame = pd.DataFrame(
        {
            "sepal length (cm)": features[:, 0],
            "colour": np.array(["white", "blue"])[(features[:, 1] > 3).astype(int)],
            "petals": (features[:, 2] * 10).astype("int64"),
        }
    )
    frame.loc[::9, "sepal length (cm)"] = np.nan
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), ["sepal length (cm)", "petals"]),
        (OneHotEncoder(), ["colour"]),
    )
    model = make_pipeline(columns, LogisticRegression()).fit(frame, target)
    others = frame[50:].dropna()
    outputs = {"labels": model.predict(others), "probabilities": model.predict_proba(others)}
    inputs = {name: np.asarray(others[name]) for name in others}
    return Trained(model, frame[:EXAMPLE_ROWS], inputs, outputs)


def onnx() -> Trained:
    """A graph of two operators."""
    import onnxruntime
    from onnx import TensorProto, checker, helper

    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "x"], ["squares"]),
            helper.make_node("Add", ["x", "x"], ["doubled"]),
        ],
        "squares",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [
            helper.make_tensor_value_info("squares", TensorProto.FLOAT, ["batch", 4]),
            helper.make_tensor_value_info("doubled", TensorProto.FLOAT, ["batch", 4]),
        ],
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    checker.check_model(model)
    _, _, others, _ = iris()
    session = onnxruntime.InferenceSession(model.SerializeToString())
    squares, doubled = session.run(None, {"x": others})
    outputs = {"squares": squares, "doubled": doubled}
    return Trained(model, others[:EXAMPLE_ROWS], {"x": others}, outputs)


def tflite() -> Trained:
    """A converted model of Keras."""
    import tensorflow as tf

    trained = keras()
    converter = tf.lite.TFLiteConverter.from_keras_model(trained.model)
    model = converter.convert()
    runner = tf.lite.Interpreter(model_content=model).get_signature_runner()
    (name,) = runner.get_input_details()
    others = trained.inputs["inputs"]
    return Trained(model, trained.example, {name: others}, runner(**{name: others}))


def xgboost() -> Trained:
    import xgboost

    features, target, others, _ = iris()
    model = xgboost.XGBClassifier(n_estimators=10, n_jobs=1).fit(features, target)
    outputs = {"labels": model.predict(others), "probabilities": model.predict_proba(others)}
    return Trained(model, features[:EXAMPLE_ROWS], {"inputs": others}, outputs)


def lightgbm() -> Trained:
    import lightgbm

    features, target, others, _ = iris()
    model = lightgbm.LGBMClassifier(n_estimators=10, n_jobs=1, verbose=-1)
    model.fit(features.astype("float64"), target)
    others = others.astype("float64")
    outputs = {"labels": model.predict(others), "probabilities": model.predict_proba(others)}
    return Trained(model, features[:EXAMPLE_ROWS], {"inputs": others}, outputs)


def catboost() -> Trained:
    import catboost

    features, target, others, _ = iris()
    model = catboost.CatBoostClassifier(iterations=10, verbose=0, allow_writing_files=False)
    names = np.array(["setosa", "versicolor", "virginica"])
    model.fit(features, names[target])
    outputs = {
        "labels": model.predict(others)[:, 0],
        "probabilities": model.predict_proba(others),
    }
    return Trained(model, features[:EXAMPLE_ROWS], {"inputs": others}, outputs)


def jax() -> Trained:
    import jax

    features, target, others, _ = iris()
    weights = np.zeros((4, 3), "float32")

    def loss(weights: Any) -> Any:
        scores = jax.nn.log_softmax(features @ weights)
        return -scores[np.arange(len(target)), target].mean()

    step = jax.jit(jax.grad(loss))
    for _ in range(50):
        weights = weights - 0.1 * step(weights)

    @jax.jit
    def classify(flowers: Any) -> Any:
        scores = jax.nn.softmax(flowers @ weights)
        return {"scores": scores, "best": scores.argmax(axis=1)}

    return Trained(classify, features[:EXAMPLE_ROWS], {"flowers": others}, classify(others))


def torch() -> Trained:
    import torch

    torch.manual_seed(0)
    features, target, others, _ = iris()
    layers = [torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(8, 3)]
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(30):
        optimizer.zero_grad()
        scores = model(torch.from_numpy(features))
        torch.nn.functional.cross_entropy(scores, torch.from_numpy(target)).backward()
        optimizer.step()
    model.eval()
    outputs = {"output_0": model(torch.from_numpy(others)).detach().numpy()}
    return Trained(model, features[:EXAMPLE_ROWS], {"input": others}, outputs)


KINDS: Mapping[str, Callable[[], Trained]] = {
    function.__name__: function
    for function in (
        *(keras, tensorflow, python, sklearn, sklearn_table, sklearn_text, sklearn_frame, onnx),
        *(tflite, xgboost, lightgbm, catboost, jax, torch),
    )
}


def main(output: Path, *kinds: str) -> None:
    """Train and save."""
    for kind in kinds:
        trained = KINDS[kind]()
        options = trained.options or {}
        servable.save(trained.model, output / kind, example=trained.example, **options)
        arrays = {
            part: to_json({name: _array(value) for name, value in values.items()})
            for part, values in (("inputs", trained.inputs), ("outputs", trained.outputs))
        }
        with tempfile.NamedTemporaryFile("w", dir=output, delete=False) as file:
            json.dump(arrays, file)
        os.rename(file.name, output / f"{kind}.json")


def _array(value: Any) -> Any:
    from servable.saving._example import array_of

    return array_of(value, "array")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
