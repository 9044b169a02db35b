"""Exports models whose graphs refuse some values, count their runs, or return composite values.

Usage: export_batch_models.py DIRECTORY
"""

from __future__ import annotations

import sys

import tensorflow as tf

FLOATS = tf.TensorSpec([None], tf.float32, name="x")


class Picky(tf.Module):
    """Doubles non-negative values."""

    @tf.function(input_signature=[FLOATS])
    def run(self, x):
        """Run it."""
        with tf.control_dependencies([tf.debugging.assert_non_negative(x, "negative")]):
            return {"y": x * 2}


class Counting(tf.Module):
    """The same, and counts its runs."""

    def __init__(self):
        super().__init__()
        self.runs = tf.Variable(0.0)

    @tf.function(input_signature=[FLOATS])
    def run(self, x):
        """Run it."""
        with tf.control_dependencies([self.runs.assign_add(1.0)]):
            check = tf.debugging.assert_non_negative(x, "negative")
        with tf.control_dependencies([check]):
            return {"y": x * 0 + self.runs.read_value()}


class Composite(tf.Module):
    """Returns a ragged and a sparse value, and a tensor."""

    @tf.function(input_signature=[FLOATS])
    def run(self, x):
        """Run it."""
        lengths = tf.cast(x, tf.int64)
        ragged = tf.RaggedTensor.from_row_lengths(tf.range(tf.reduce_sum(lengths)), lengths)
        return {"ragged": ragged, "sparse": tf.sparse.from_dense([x]), "y": x}


directory = sys.argv[1]
for name, model in {"picky": Picky(), "counting": Counting(), "composite": Composite()}.items():
    tf.saved_model.save(model, f"{directory}/{name}/1", signatures=model.run)
