"""Export the model that answers with what it is given: `python export_identity.py DIRECTORY`."""

from __future__ import annotations

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import tensorflow as tf


def main() -> None:
    """Write the model into the directory."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], "x")
        v1.saved_model.simple_save(session, sys.argv[1], {"x": x}, {"y": tf.identity(x)})


if __name__ == "__main__":
    main()
