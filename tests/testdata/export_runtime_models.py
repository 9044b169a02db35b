"""Export the SavedModels for the tests of the TensorFlow runtime.

usage: export_runtime_models.py OUTPUT_DIRECTORY        (needs the `tensorflow` package)

Each model is one kind of SavedModel: dtypes, number of inputs and outputs, variables by reference and by resource,
assets, state, errors. All values are constants, so answers are equal on every machine. Writes
OUTPUT_DIRECTORY/<model>/1/ and takes a few seconds, mostly for the import of TensorFlow.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import tensorflow as tf

v1 = tf.compat.v1

Signatures = dict[str, Any]

IDENTITY_DTYPES = (
    "float32 float64 float16 bfloat16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool string "
    "complex64 complex128 qint8 quint8 qint16 quint16 qint32"
).split()


def signature(inputs: dict[str, tf.Tensor], outputs: dict[str, tf.Tensor]) -> Any:
    """Build a predict signature."""
    info = v1.saved_model.utils.build_tensor_info
    return v1.saved_model.build_signature_def(
        {alias: info(tensor) for alias, tensor in inputs.items()},
        {alias: info(tensor) for alias, tensor in outputs.items()},
        "tensorflow/serving/predict",
    )


def dtypes() -> Signatures:
    """One identity per dtype, named after it and of unknown rank."""
    signatures = {}
    for name in IDENTITY_DTYPES:
        x = v1.placeholder(tf.dtypes.as_dtype(name), None, f"{name}_x")
        signatures[name] = signature({"x": x}, {"y": tf.identity(x, f"{name}_y")})
    return signatures


def multiple() -> Signatures:
    """Three inputs of three dtypes; outputs that need different subsets of them."""
    numbers = v1.placeholder(tf.float32, [None], "numbers")
    counts = v1.placeholder(tf.int32, [None], "counts")
    words = v1.placeholder(tf.string, [None, None], "words")
    outputs = {
        "joined": tf.strings.reduce_join(words, axis=1, name="joined"),
        "sum": tf.add(numbers, tf.cast(counts, tf.float32), name="sum"),
        "twice": tf.multiply(counts, 2, name="twice"),
    }
    inputs = {"counts": counts, "numbers": numbers, "words": words}
    return {"serving_default": signature(inputs, outputs)}


def unknown_rank() -> Signatures:
    """The shape of the input."""
    x = v1.placeholder(tf.float32, None, "x")
    outputs = {"rank": tf.rank(x, "rank"), "shape": tf.shape(x, name="shape")}
    return {"serving_default": signature({"x": x}, outputs)}


def product() -> Signatures:
    """Elementwise product of two inputs, so that nothing can be folded away."""
    x = v1.placeholder(tf.float32, None, "x")
    y = v1.placeholder(tf.float32, None, "y")
    return {"serving_default": signature({"x": x, "y": y}, {"z": tf.multiply(x, y, name="z")})}


def linear() -> Signatures:
    """x / 2 + 2, with both constants in variables."""
    half = v1.Variable(0.5, use_resource=False, name="half")
    two = v1.Variable(2.0, use_resource=False, name="two")
    x = v1.placeholder(tf.float32, [None], "x")
    return {"serving_default": signature({"x": x}, {"y": tf.add(half * x, two, name="y")})}


def reference_variables() -> tuple[Signatures, tf.Operation]:
    """Variables of TF1; one is restored, one is set by the initialisation op, one is fetched as a reference."""
    restored = v1.Variable([1.0, 2.0], use_resource=False, name="restored")
    initialized = v1.Variable(
        0.0, use_resource=False, name="initialized", collections=[v1.GraphKeys.LOCAL_VARIABLES]
    )
    main_op = v1.assign(initialized, 40.0, name="set_initialized").op
    x = v1.placeholder(tf.float32, [None], "x")
    outputs = {"reference": restored._ref(), "y": tf.add(x * restored, initialized, name="y")}
    return {"serving_default": signature({"x": x}, outputs)}, main_op


def counter() -> Signatures:
    """A counter that one signature increments and another reads, without any input."""
    count = v1.get_variable("count", initializer=tf.constant(0, tf.int64), use_resource=True)
    with tf.control_dependencies([count.assign_add(1)]):
        raised = tf.identity(count.read_value(), "raised")
    return {
        "raise": signature({}, {"count": raised}),
        "read": signature({}, {"count": tf.identity(count, "current")}),
    }


def failing() -> Signatures:
    """A look-up that fails when the index is out of range."""
    index = v1.placeholder(tf.int32, [None], "index")
    found = tf.gather(tf.constant([1.0, 2.0, 3.0], name="rows"), index, name="look_up")
    return {"serving_default": signature({"index": index}, {"found": found})}


def waiting() -> Signatures:
    """Twice the input; for a negative one it blocks until a value has been put into a queue."""
    queue = tf.queue.FIFOQueue(1000, [tf.float32], shapes=[()], name="queue")
    x = v1.placeholder(tf.float32, [None], "x")
    hangs = tf.reduce_any(x < 0.0)
    y = tf.cond(hangs, lambda: x + x + 0.0 * queue.dequeue(), lambda: x + x)
    items = v1.placeholder(tf.float32, [None], "items")
    with tf.control_dependencies([queue.enqueue_many(items)]):
        put = tf.identity(items, "put")
    return {
        "serving_default": signature({"x": x}, {"y": tf.identity(y, "y")}),
        "go_on": signature({"items": items}, {"put": put}),
    }


def endless() -> Signatures:
    """Loops of x steps, or waits; endless if x is negative. Each answers twice the input."""
    counter = tf.TensorSpec([], tf.int64)

    def steps(x: tf.Tensor) -> tf.Tensor:
        wanted = tf.cast(x[0], tf.int64)
        start = (tf.constant(0, tf.int64),)
        return tf.while_loop(lambda i: tf.not_equal(i, wanted), lambda i: (i + 1,), start)[0]

    def first_version(x: tf.Tensor) -> tf.Tensor:
        v1.disable_control_flow_v2()
        try:
            return steps(x)
        finally:
            v1.enable_control_flow_v2()

    def nested(x: tf.Tensor) -> tf.Tensor:
        start = (tf.constant(0, tf.int64),)
        return tf.while_loop(lambda i: i < 2, lambda i: (i + 1 + 0 * steps(x),), start)[0]

    def functional(x: tf.Tensor) -> tf.Tensor:
        taken, _ = tf.raw_ops.StatelessWhile(
            input=[tf.constant(0, tf.int64), tf.cast(x[0], tf.int64)],
            cond=tf.function(tf.not_equal).get_concrete_function(counter, counter),
            body=tf.function(lambda i, n: (i + 1, n)).get_concrete_function(counter, counter),
        )
        return taken

    def mapped(x: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(lambda row: tf.cast(steps(row[tf.newaxis]), tf.float32), x)

    def scanned(x: tf.Tensor) -> tf.Tensor:
        return tf.scan(
            lambda so_far, row: so_far + tf.cast(steps(row[tf.newaxis]), tf.float32), x, 0.0
        )

    def data_set(x: tf.Tensor) -> tf.Tensor:
        wanted = tf.cast(x[0], tf.int64)
        numbers = tf.data.Dataset.range(10**18).take(tf.where(wanted < 0, 10**18, wanted))
        return numbers.reduce(tf.constant(0, tf.int64), lambda so_far, number: so_far + number)

    def queue(x: tf.Tensor) -> tf.Tensor:
        empty = tf.queue.FIFOQueue(1, [tf.float32], shapes=[()], name="empty")
        return tf.cond(x[0] < 0.0, empty.dequeue, lambda: x[0])

    def compiled(x: tf.Tensor) -> tf.Tensor:
        return tf.function(steps)(x)

    ways = {
        "first_version": first_version,
        "second_version": steps,
        "nested": nested,
        "functional": functional,
        "called": compiled,
        "mapped": mapped,
        "scanned": scanned,
        "data_set": data_set,
        "queue": queue,
    }
    signatures = {}
    for name, way in ways.items():
        x = v1.placeholder(tf.float32, [None], f"{name}_x")
        y = x + x + 0.0 * tf.cast(way(x), tf.float32)
        signatures[name] = signature({"x": x}, {"y": tf.identity(y, f"{name}_y")})
    return {"serving_default": signatures["second_version"], **signatures}


def blocking() -> Signatures:
    """Twice the input; for a negative one it runs forever and cannot be stopped."""
    x = v1.placeholder(tf.float32, [None], "x")
    y = tf.cond(
        x[0] < 0.0,
        lambda: x + tf.raw_ops.Unstage(dtypes=[tf.float32], shared_name="never")[0],
        lambda: x + x,
    )
    return {"serving_default": signature({"x": x}, {"y": tf.identity(y, "y")})}


def ones() -> Signatures:
    """A number of ones, and their sum."""
    count = v1.placeholder(tf.int64, [], "count")
    values = tf.fill([count], 1.0)
    outputs = {"values": values, "sum": tf.reduce_sum(values)}
    return {"serving_default": signature({"count": count}, outputs)}


def decomposed() -> Signatures:
    """The sum of the singular values of a square matrix: no loop, and slow for a large one."""
    size = v1.placeholder(tf.int64, [], "size")
    rows = tf.range(tf.cast(size, tf.float32))
    values = tf.linalg.svd(tf.sin(rows[:, tf.newaxis] * rows), compute_uv=False)
    return {"serving_default": signature({"size": size}, {"sum": tf.reduce_sum(values)})}


def handles() -> Signatures:
    """Outputs that no client can receive: a resource and a variant."""
    table = tf.raw_ops.MutableHashTableV2(key_dtype=tf.string, value_dtype=tf.int64, name="table")
    tensors = tf.raw_ops.EmptyTensorList(
        element_shape=tf.constant(-1), max_num_elements=1, element_dtype=tf.float32, name="tensors"
    )
    return {
        "resource": signature({}, {"handle": table}),
        "variant": signature({}, {"handle": tensors}),
    }


def large() -> Signatures:
    """Constant weights of 16 MB, to test whether unloading frees memory."""
    x = v1.placeholder(tf.float32, [None, 2048], "x")
    weights = tf.constant([[float(row % 7) for row in range(2048)]] * 2048, name="weights")
    return {"serving_default": signature({"x": x}, {"y": tf.matmul(x, weights, name="y")})}


class Words(tf.Module):
    """A vocabulary in an asset file, in TF2 style."""

    def __init__(self, vocabulary: Path) -> None:
        super().__init__()
        initializer = tf.lookup.TextFileInitializer(
            str(vocabulary),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        self.table = tf.lookup.StaticHashTable(initializer, default_value=-1)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
    def look_up(self, words: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the line number of each word."""
        return {"ids": self.table.lookup(words)}


class Compiled(tf.Module):
    """A function to be compiled by XLA."""

    @tf.function(jit_compile=True)
    def _compiled(self, x: tf.Tensor) -> tf.Tensor:
        return x / 2.0 + 2.0

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def half_plus_two(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return x / 2 + 2."""
        return {"y": self._compiled(x)}


class Steps(tf.Module):
    """A loop with a requested number of steps, in TF2 style: slow, and deep where loops run by recursion."""

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64, name="steps")])
    def count(self, steps: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the number of steps."""
        taken = tf.constant(0, tf.int64)
        return {"taken": tf.while_loop(lambda i: i < steps, lambda i: (i + 1,), (taken,))[0]}


def export_graph(
    path: Path, build: Callable[[], Signatures | tuple[Signatures, tf.Operation]]
) -> None:
    """Write the graph of `build`, with its variables."""
    with tf.Graph().as_default(), v1.Session() as session:
        built = build()
        signatures, main_op = built if isinstance(built, tuple) else (built, None)
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session, ["serve"], signature_def_map=signatures, main_op=main_op
        )
        builder.save()


def export_all(root: Path) -> None:
    """Write every model below `root`, replacing what is there."""
    graphs = (
        dtypes, multiple, unknown_rank, product, linear, reference_variables, counter, failing, waiting,
        endless, blocking, ones, decomposed, handles, large,
    )  # fmt: skip
    for build in graphs:
        shutil.rmtree(root / build.__name__, ignore_errors=True)
        export_graph(root / build.__name__ / "1", build)
    with tempfile.TemporaryDirectory() as scratch:
        vocabulary = Path(scratch) / "vocabulary.txt"
        vocabulary.write_text("zero\none\ntwo\n")
        words = Words(vocabulary)
        tf.saved_model.save(
            words, str(root / "words" / "1"), signatures={"serving_default": words.look_up}
        )
    compiled = Compiled()
    tf.saved_model.save(
        compiled,
        str(root / "compiled" / "1"),
        signatures={"serving_default": compiled.half_plus_two},
    )
    steps = Steps()
    tf.saved_model.save(
        steps, str(root / "steps" / "1"), signatures={"serving_default": steps.count}
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    tf.get_logger().setLevel("ERROR")
    export_all(Path(sys.argv[1]))
