"""Export the models of the benchmarks: `python export_models.py DIRECTORY [MODEL ...]`.

identity
    Returns its input.
turtle3
    The convolutional network of the demo, for any number of images of 360 floats instead of one.
turtle3_96, turtle3_192, turtle3_320
    The same with this number of filters, in two layers instead of one.
deep
    A long sequence of matrix products for each row of eight floats: a batch takes some milliseconds on one processor.

Each model is written to `DIRECTORY/MODEL/1`.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples/demo_models"))

import numpy as np
import tensorflow as tf
from export import CHANNELS, HEIGHT, WIDTH, Turtle

DEEP_FLOATS, DEEP_WIDTH, DEEP_LAYERS = 8, 1024, 96


class Deep(tf.Module):
    """One layer, applied repeatedly."""

    def __init__(self) -> None:
        super().__init__()
        random = np.random.default_rng(0)

        def weights(*shape: int) -> tf.Variable:
            return tf.Variable(random.normal(0, 1 / shape[0] ** 0.5, shape).astype(np.float32))

        self.first = weights(DEEP_FLOATS, DEEP_WIDTH)
        self.layer = weights(DEEP_WIDTH, DEEP_WIDTH)

    @tf.function(input_signature=[tf.TensorSpec([None, DEEP_FLOATS], tf.float32, "x")])
    def compute(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return one number for each row."""
        values = tf.matmul(x, self.first)
        for _ in range(DEEP_LAYERS):
            values = tf.nn.relu(tf.matmul(values, self.layer))
        return {"y": tf.reduce_mean(values, axis=1)}


class WideTurtle(tf.Module):
    """turtle3 with more filters, and a second layer of equal size: more work for the same inputs and outputs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        random = np.random.default_rng(width)

        def weights(*shape: int) -> tf.Variable:
            scale = math.sqrt(2 / math.prod(shape[:-1]))
            return tf.Variable(random.normal(0, scale, shape).astype(np.float32))

        self.kernels = [weights(3, 3, CHANNELS, width), weights(3, 3, width, width)]
        self.dense = weights(width, 2)

    def probabilities(self, images: tf.Tensor) -> tf.Tensor:
        """Return two probabilities for each image."""
        features = images
        for kernel in self.kernels:
            features = tf.nn.relu(tf.nn.conv2d(features, kernel, strides=1, padding="SAME"))
        return tf.nn.softmax(tf.matmul(tf.reduce_mean(features, axis=[1, 2]), self.dense))


def export_deep(path: str) -> None:
    """Export the sequence of matrix products."""
    deep = Deep()
    tf.saved_model.save(deep, path, signatures={"serving_default": deep.compute})


def export_identity(path: str) -> None:
    """Export the model that returns its input."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], "x")
        v1.saved_model.simple_save(session, path, {"x": x}, {"y": tf.identity(x)})


def export_turtle3(path: str, width: int | None = None) -> None:
    """Export the network with the demo's weights, or a wider one."""
    turtle = Turtle(3) if width is None else WideTurtle(width)

    @tf.function(
        input_signature=[tf.TensorSpec([None, HEIGHT * WIDTH * CHANNELS], tf.float32, "x")]
    )
    def classify(x: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.reshape(x, [-1, HEIGHT, WIDTH, CHANNELS])
        return {"probabilities": turtle.probabilities(images)}

    tf.saved_model.save(turtle, path, signatures={"serving_default": classify})


MODELS: dict[str, Callable[[str], None]] = {
    "identity": export_identity,
    "turtle3": export_turtle3,
    "turtle3_96": functools.partial(export_turtle3, width=96),
    "turtle3_192": functools.partial(export_turtle3, width=192),
    "turtle3_320": functools.partial(export_turtle3, width=320),
    "deep": export_deep,
}


def main(arguments: list[str]) -> None:
    """Export the named models, or all of them."""
    if not arguments or arguments[0].startswith("-"):
        sys.exit(__doc__)
    for name in arguments[1:] or MODELS:
        MODELS[name](os.path.join(arguments[0], name, "1"))


if __name__ == "__main__":
    main(sys.argv[1:])
