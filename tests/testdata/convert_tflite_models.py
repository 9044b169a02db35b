"""Converts models to TensorFlow Lite: `python convert_tflite_models.py DIRECTORY`.

The conversions are those of TensorFlow's own converter. They differ in what a server must be able to do. `iris` and
`diabetes` are trained on these data sets; the metadata of `iris` has the names of its classes.
"""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_diabetes, load_iris

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 10


def convert(model: Any, *functions: Any) -> Any:
    concrete = [function.get_concrete_function() for function in functions]
    return tf.lite.TFLiteConverter.from_concrete_functions(concrete, model)


def floats(*shape: int | None, name: str = "x") -> Any:
    return tf.TensorSpec(shape, tf.float32, name=name)


class Linear(tf.Module):  # type: ignore[misc]
    """A free batch, and two signatures."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = tf.Variable(WEIGHTS)

    @tf.function(input_signature=[floats(None, 4)])
    def classify(self, x: Any) -> Any:
        return {"scores": tf.nn.softmax(x @ self.weights), "total": tf.reduce_sum(x, 1)}

    @tf.function(
        input_signature=[tf.TensorSpec([None, 2], tf.int64, name=name) for name in ("a", "b")]
    )
    def add(self, a: Any, b: Any) -> Any:
        return {"sum": a + b}

    @tf.function(input_signature=[floats(1, 4)])
    def one_row(self, x: Any) -> Any:
        return {"y": tf.nn.relu(x @ self.weights) + tf.reshape(tf.reduce_sum(x, 1), [-1, 1])}


@tf.function(
    input_signature=[
        tf.TensorSpec([None], tf.string, name="keys"),
        tf.TensorSpec([None], tf.int32, name="order"),
    ]
)
def pick(keys: Any, order: Any) -> Any:
    return {"picked": tf.gather(keys, order)}


@tf.function(input_signature=[floats(None)])
def where(x: Any) -> Any:
    return {"where": tf.where(x > 0)}


@tf.function(input_signature=[floats(name="n")])
def loop(n: Any) -> Any:
    i = tf.constant(0.0)
    while i < n:
        i = i + tf.sin(i) * tf.sin(i) + tf.cos(i) * tf.cos(i)
    return {"i": i}


@tf.function(input_signature=[floats(None, 4)])
def same(x: Any) -> Any:
    more = x + 1
    return {"x": x, "constant": tf.constant([1.0, 2.0]), "more": more, "again": tf.identity(more)}


@tf.function(input_signature=[tf.TensorSpec([], tf.int32, name="n")])
def product(n: Any) -> Any:
    """One operator that takes long for a large `n`."""
    ones = tf.fill([n, n], 1.0)
    return {"sum": tf.reduce_sum(ones @ ones)}


@tf.function(input_signature=[floats(1, 1)])
def wide(x: Any) -> Any:
    """A few bytes in the file, and 40 MB in a run."""
    return {"sum": tf.reduce_sum(tf.nn.relu(tf.tile(x, [1, 5_000_000])), 1)}


@tf.function(input_signature=[floats(4, 4)])
def four_rows(x: Any) -> Any:
    """The number of rows of the batch, beside each of them."""
    return {"rows": tf.reduce_sum(x * 0 + 0.25) + x[:, 0] * 0}


@tf.function(input_signature=[floats(60_000, 60_000)])
def huge(x: Any) -> Any:
    return {"sum": tf.reduce_sum(x)}


@tf.function(input_signature=[floats(None, 4)])
def flexible(x: Any) -> Any:
    return {"y": tf.raw_ops.MatrixInverse(input=tf.linalg.diag(x))}


def trained_classifier() -> Any:
    """A logistic regression on the flowers of Iris."""
    rows, classes = load_iris(return_X_y=True)
    weights, bias = tf.Variable(tf.zeros([4, 3])), tf.Variable(tf.zeros([3]))

    def logits(x: Any) -> Any:
        return x @ weights + bias

    for _ in range(300):
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                classes, logits(rows.astype("float32"))
            )
            loss = tf.reduce_mean(losses)
        for variable, gradient in zip(
            (weights, bias), tape.gradient(loss, (weights, bias)), strict=True
        ):
            variable.assign_sub(0.1 * gradient)
    fixed = weights.numpy(), bias.numpy()

    @tf.function(input_signature=[floats(None, 4)])
    def probabilities(x: Any) -> Any:
        return {"probabilities": tf.nn.softmax(x @ fixed[0] + fixed[1])}

    return probabilities


def trained_regressor() -> Any:
    """A least-squares fit of the progress of diabetes, by two features."""
    rows, values = load_diabetes(return_X_y=True)
    columns = np.column_stack([rows[:, 2], rows[:, 8], np.ones(len(rows))])
    weights = np.linalg.lstsq(columns, values, rcond=None)[0].astype("float32")

    @tf.function(input_signature=[floats(None, name="bmi"), floats(None, name="s5")])
    def progress(bmi: Any, s5: Any) -> Any:
        return {"progress": bmi * weights[0] + s5 * weights[1] + weights[2]}

    return progress


def main(directory: Path) -> None:
    """Write each model."""
    linear = Linear()
    signatures = {"serving_default": linear.classify, "add": linear.add}
    saved_model = directory / "saved_model"
    tf.saved_model.save(linear, str(saved_model), signatures=signatures)
    converters = {
        "linear": tf.lite.TFLiteConverter.from_saved_model(
            str(saved_model), signature_keys=list(signatures)
        ),
        "one_row": convert(linear, linear.one_row),
        "strings": convert(tf.Module(), pick),
        "where": convert(tf.Module(), where),
        "loop": convert(tf.Module(), loop),
        "same": convert(tf.Module(), same),
        "product": convert(tf.Module(), product),
        "wide": convert(tf.Module(), wide),
        "four_rows": convert(tf.Module(), four_rows),
        "huge": convert(tf.Module(), huge),
        "iris": convert(tf.Module(), trained_classifier()),
        "diabetes": convert(tf.Module(), trained_regressor()),
        "flexible": convert(tf.Module(), flexible),
        "int8": convert(linear, linear.one_row),
    }
    flexible_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    converters["flexible"].target_spec.supported_ops = flexible_ops
    quantized = converters["int8"]
    samples = np.random.default_rng(0).normal(size=(20, 1, 4)).astype("float32")
    quantized.optimizations = [tf.lite.Optimize.DEFAULT]
    quantized.representative_dataset = lambda: ([sample] for sample in samples)
    quantized.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    quantized.inference_input_type = quantized.inference_output_type = tf.int8
    for name, converter in converters.items():
        version = directory / name / "1"
        version.mkdir(parents=True)
        (version / "model.tflite").write_bytes(converter.convert())
    # As tools that write metadata do.
    with zipfile.ZipFile(directory / "iris/1/model.tflite", "a") as archive:
        archive.writestr("labels.txt", "\n".join(load_iris().target_names))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
