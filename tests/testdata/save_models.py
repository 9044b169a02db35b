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


KINDS: Mapping[str, Callable[[], Trained]] = {
    "keras": keras,
    "python": python,
    "tensorflow": tensorflow,
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
