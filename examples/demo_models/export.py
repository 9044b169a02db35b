"""Export the demo models as SavedModels: `python export.py DIRECTORY [MODEL ...]`.

turtle3, turtle5
    Small convolutional networks with 3×3 and 5×5 kernels. One 12×10×3 image goes in as 360 numbers, two probabilities
    come out. The weights are drawn with a fixed seed: the networks know nothing about turtles.
half_plus_two
    x / 2 + 2 as a TensorFlow 1 graph: reference variables, an asset, and predict, classify and regress signatures.
half_plus_two_tf2
    The same as a `tf.Module`.

Each model is written to `DIRECTORY/MODEL/1`, and a request for the turtles to `DIRECTORY/turtle_request.json`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf

tf.get_logger().setLevel("ERROR")

HEIGHT, WIDTH, CHANNELS = 12, 10, 3
FILTERS = 8


class Turtle(tf.Module):
    """One convolution, a mean over the image, and a dense layer with two outputs."""

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        random = np.random.default_rng(kernel_size)

        def weights(*shape: int) -> tf.Variable:
            fan_in = math.prod(shape[:-1])
            return tf.Variable(random.normal(0, math.sqrt(2 / fan_in), shape).astype(np.float32))

        self.kernel = weights(kernel_size, kernel_size, CHANNELS, FILTERS)
        self.dense = weights(FILTERS, 2)

    @tf.function(input_signature=[tf.TensorSpec([HEIGHT * WIDTH * CHANNELS], tf.float32, "image")])
    def classify(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """Give the two probabilities, shape `[2]`, of one flattened image."""
        images = tf.reshape(image, [1, HEIGHT, WIDTH, CHANNELS])
        return {"probabilities": self.probabilities(images)[0]}

    def probabilities(self, images: tf.Tensor) -> tf.Tensor:
        """Give two probabilities for each image."""
        features = tf.nn.relu(tf.nn.conv2d(images, self.kernel, strides=1, padding="SAME"))
        pooled = tf.reduce_mean(features, axis=[1, 2])
        return tf.nn.softmax(tf.matmul(pooled, self.dense))


class HalfPlusTwo(tf.Module):
    """x / 2 + 2."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = tf.Variable(0.5, name="slope")
        self.offset = tf.Variable(2.0, name="offset")

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def half_plus_two(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Compute one `y` for every `x`."""
        return {"y": self.slope * x + self.offset}


def export_turtle(kernel_size: int) -> Callable[[Path], None]:
    """Make the exporter of the network with kernels of that size."""

    def export(path: Path) -> None:
        turtle = Turtle(kernel_size)
        tf.saved_model.save(turtle, str(path), signatures={"serving_default": turtle.classify})

    return export


def export_half_plus_two_tf2(path: Path) -> None:
    """Export the `tf.Module`."""
    module = HalfPlusTwo()
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.half_plus_two})


def export_half_plus_two(path: Path) -> None:
    """Export the TensorFlow 1 graph, whose offset is read from an asset when it is loaded."""
    v1 = tf.compat.v1
    offset_file = path.parent / "offset.txt"
    offset_file.parent.mkdir(parents=True, exist_ok=True)
    offset_file.write_text("2.0")
    with tf.Graph().as_default(), v1.Session() as session:
        slope = v1.get_variable("slope", initializer=0.5, use_resource=False)
        offset = v1.get_variable("offset", initializer=0.0, use_resource=False)
        asset = tf.constant(str(offset_file), name="offset_path")
        v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, asset)
        read_offset = v1.assign(offset, tf.strings.to_number(tf.io.read_file(asset)))

        x = v1.placeholder(tf.float32, [None], "x")
        y = tf.add(slope * x, offset, name="y")
        serialized = v1.placeholder(tf.string, [None], "examples")
        parsed = v1.parse_example(serialized, {"x": v1.FixedLenFeature([1], tf.float32)})
        value = tf.add(slope * parsed["x"], offset, name="value")
        session.run(v1.global_variables_initializer())

        info = v1.saved_model.build_tensor_info
        signature = v1.saved_model.build_signature_def
        names = tf.saved_model
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            [names.SERVING],
            signature_def_map={
                names.DEFAULT_SERVING_SIGNATURE_DEF_KEY: signature(
                    {"x": info(x)}, {"y": info(y)}, names.PREDICT_METHOD_NAME
                ),
                "classify_x_to_y": signature(
                    {names.CLASSIFY_INPUTS: info(serialized)},
                    {names.CLASSIFY_OUTPUT_SCORES: info(value)},
                    names.CLASSIFY_METHOD_NAME,
                ),
                "regress_x_to_y": signature(
                    {names.REGRESS_INPUTS: info(serialized)},
                    {names.REGRESS_OUTPUTS: info(value)},
                    names.REGRESS_METHOD_NAME,
                ),
            },
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=read_offset.op,
        )
        builder.save()
    offset_file.unlink()


MODELS: dict[str, Callable[[Path], None]] = {
    "turtle3": export_turtle(3),
    "turtle5": export_turtle(5),
    "half_plus_two": export_half_plus_two,
    "half_plus_two_tf2": export_half_plus_two_tf2,
}


def write_turtle_request(path: Path) -> None:
    """Write the request for the turtles: an image of noise, as one flat list."""
    image = np.random.default_rng(0).random(HEIGHT * WIDTH * CHANNELS).round(4)
    path.write_text(json.dumps({"instances": image.tolist()}) + "\n")


def main(arguments: list[str]) -> None:
    """Export the named models, or all of them."""
    if not arguments or arguments[0].startswith("-"):
        sys.exit(__doc__)
    directory, names = Path(arguments[0]), arguments[1:] or list(MODELS)
    for name in names:
        path = directory / name / "1"
        shutil.rmtree(path, ignore_errors=True)
        MODELS[name](path)
        print(path)
    write_turtle_request(directory / "turtle_request.json")


if __name__ == "__main__":
    main(sys.argv[1:])
