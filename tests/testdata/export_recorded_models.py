"""Export the SavedModels of the golden recordings.

usage: export_models.py OUTPUT_DIR        (needs the `tensorflow` package, CPU is enough)

Every weight is a constant and every operation exact, so that answers are equal bit for bit on any machine. Graphs are
written in the TF1 style with named nodes, because node names appear in error messages. The one TF2 model (`keras`) is
exported last, so that its function numbering does not depend on the others. The result is in
OUTPUT_DIR/<model>/<version>/.
"""

from __future__ import annotations

import os
import shutil
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
import tensorflow as tf

tf.get_logger().setLevel("ERROR")

v1 = tf.compat.v1
PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"

DTYPES = {
    "float": tf.float32,
    "double": tf.float64,
    "half": tf.float16,
    "bfloat16": tf.bfloat16,
    "int8": tf.int8,
    "int16": tf.int16,
    "int32": tf.int32,
    "int64": tf.int64,
    "uint8": tf.uint8,
    "uint16": tf.uint16,
    "uint32": tf.uint32,
    "uint64": tf.uint64,
    "bool": tf.bool,
    "string": tf.string,
    "complex64": tf.complex64,
    "complex128": tf.complex128,
}


def signature(inputs: dict, outputs: dict, method: str = PREDICT):
    info = v1.saved_model.utils.build_tensor_info
    return v1.saved_model.build_signature_def(
        {k: info(v) for k, v in inputs.items()}, {k: info(v) for k, v in outputs.items()}, method
    )


def export(root: str, model: str, build, version: int = 1) -> None:
    """`build()` makes the graph and returns {signature name: SignatureDef}, optionally with an init op."""
    path = os.path.join(root, model, str(version))
    shutil.rmtree(path, ignore_errors=True)
    with tf.Graph().as_default():
        v1.set_random_seed(0)
        signatures = build()
        init = None
        if isinstance(signatures, tuple):
            signatures, init = signatures
        with v1.Session() as session:
            session.run([v1.global_variables_initializer(), v1.tables_initializer()])
            builder = v1.saved_model.Builder(path)
            builder.add_meta_graph_and_variables(
                session,
                ["serve"],
                signature_def_map=signatures,
                main_op=init,
                assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            )
            builder.save()


def placeholder(dtype, shape=None, name=None):
    return v1.placeholder(dtype, shape, name)


def types():
    """One identity signature per dtype, of unknown rank; and `vector_<dtype>` with shape [None]."""
    found = {}
    for name, dtype in DTYPES.items():
        x = placeholder(dtype, None, f"{name}_x")
        found[name] = signature({"x": x}, {"y": tf.identity(x, f"{name}_y")})
        v = placeholder(dtype, [None], f"{name}_vx")
        found[f"vector_{name}"] = signature({"x": v}, {"y": tf.identity(v, f"{name}_vy")})
    found["serving_default"] = found["vector_float"]
    return found


def bits():
    """Integers in, the floating-point numbers with these bits out: every NaN, denormal and rounding case."""
    found = {}
    for name, source, target in [
        ("float", tf.int32, tf.float32),
        ("double", tf.int64, tf.float64),
        ("half", tf.int32, tf.float16),
        ("bfloat16", tf.int32, tf.bfloat16),
    ]:
        x = placeholder(source, [None], f"{name}_x")
        number = tf.cast(x, tf.uint16, name=f"{name}_bits") if target.size == 2 else x
        found[name] = signature({"x": x}, {"y": tf.bitcast(number, target, name=f"{name}_y")})
    x = placeholder(tf.int32, [None], "int32_x")
    for target in (tf.int8, tf.uint8, tf.int16, tf.uint16):
        found[target.name] = signature({"x": x}, {"y": tf.cast(x, target, name=f"{target.name}_y")})
    x = placeholder(tf.int64, [None], "int64_x")
    for target in (tf.uint32, tf.uint64):
        found[target.name] = signature(
            {"x": x},
            {
                "y": tf.bitcast(x, target, name=f"{target.name}_y")
                if target == tf.uint64
                else tf.cast(x, target, name="uint32_y")
            },
        )
    return found


def multi():
    """Several inputs of several dtypes, several outputs; one signature whose outputs share a suffix `_bytes`."""
    a = placeholder(tf.float32, [None], "a")
    b = placeholder(tf.int32, [None], "b")
    s = placeholder(tf.string, [None, None], "s")
    f = placeholder(tf.bool, [None], "f")
    raw = placeholder(tf.string, None, "raw")
    number = placeholder(tf.int32, None, "number")
    outputs = {
        "sum": tf.add(a, tf.cast(b, tf.float32), name="sum"),
        "double_b": tf.multiply(b, 2, name="double_b"),
        "joined": tf.strings.reduce_join(s, axis=1, name="joined"),
        "not_f": tf.logical_not(f, name="not_f"),
    }
    one = {"sum": outputs["sum"], "double_b": outputs["double_b"]}
    return {
        "serving_default": signature({"a": a, "b": b, "s": s, "f": f}, outputs),
        "two": signature({"a": a, "b": b}, one),
        "one_out": signature({"a": a, "b": b}, {"sum": outputs["sum"]}),
        "duplicate_feed": signature({"a": a, "a2": a, "b": b}, one),
        "bytes_names": signature(
            {"image_bytes": raw, "number_bytes": number},
            {
                "image_bytes": tf.identity(raw, "image_bytes_out"),
                "number_bytes": tf.identity(number, "number_bytes_out"),
                "plain": tf.identity(raw, "plain_out"),
                "_bytes": tf.identity(raw, "only_bytes_out"),
                "bytes": tf.identity(raw, "bytes_out"),
                "IMAGE_BYTES": tf.identity(raw, "upper_bytes_out"),
            },
        ),
        "one_bytes": signature({"raw": raw}, {"out_bytes": tf.identity(raw, "one_bytes_out")}),
        "one_number_bytes": signature(
            {"number": number}, {"out_bytes": tf.identity(number, "one_number_out")}
        ),
        "odd names": signature(
            {"a b": a, 'q"\\': b, "é😀": b},
            {"a b": outputs["sum"], 'q"\\\n': outputs["double_b"], "é😀": outputs["double_b"]},
        ),
        "": signature({"a": a, "b": b}, {"sum": outputs["sum"]}),
        "no_inputs": signature({}, {"y": tf.constant([1.5, 2.5], name="constant")}),
        "inputs": signature({"inputs": a}, {"outputs": tf.identity(a, "outputs")}),
        "instances": signature(
            {"instances": a, "b64": b},
            {"predictions": tf.identity(a, "predictions"), "error": tf.identity(b, "error")},
        ),
        "b64": signature({"b64": raw}, {"b64": tf.identity(raw, "b64_out")}),
    }


def shapes():
    """Fixed, partly known and scalar shapes; outputs without a batch dimension or of differing ones."""
    found = {}

    def identity(name, shape, dtype=tf.float32):
        x = placeholder(dtype, shape, f"{name}_x")
        found[name] = signature({"x": x}, {"y": tf.identity(x, f"{name}_y")})
        return x

    identity("serving_default", None)
    identity("scalar", [])
    identity("fixed", [2, 3])
    identity("batch3", [None, 3])
    identity("matrix", [None, None])
    identity("cube", [None, 2, None])
    identity("one", [1])
    identity("zero", [0])
    identity("zero_inner", [None, 0])
    identity("strings", [None, 2], tf.string)
    x = placeholder(tf.float32, [None], "reduce_x")
    found["no_batch_out"] = signature({"x": x}, {"y": tf.reduce_sum(x, name="reduce_y")})
    found["mixed_out"] = signature(
        {"x": x}, {"y": tf.identity(x, "mixed_y"), "total": tf.reduce_sum(x, name="mixed_total")}
    )
    found["fixed_out"] = signature(
        {"x": x}, {"y": tf.stack([tf.reduce_sum(x), tf.constant(1.0)], name="fixed_y")}
    )
    found["differing_out"] = signature(
        {"x": x},
        {"y": tf.identity(x, "differing_y"), "twice": tf.concat([x, x], 0, name="differing_twice")},
    )
    found["grown_out"] = signature({"x": x}, {"y": tf.concat([x, x], 0, name="grown_y")})
    found["empty_out"] = signature({"x": x}, {"y": tf.zeros([0, 2], name="empty_y")})
    found["wide_out"] = signature({"x": x}, {"y": tf.reshape(x, [-1, 1, 1, 1], name="wide_y")})
    n = placeholder(tf.int64, [None], "fill_dims")
    found["fill"] = signature({"dims": n}, {"y": tf.zeros(n, name="fill_y")})
    return found


def examples():
    """tf.Example parsing of every feature kind, and the shapes that classify and regress accept or refuse."""
    serialized = placeholder(tf.string, [None], "serialized")
    parsed = v1.parse_example(
        serialized,
        {
            "x": v1.FixedLenFeature([1], tf.float32, [0.0]),
            "n": v1.FixedLenFeature([], tf.int64, 7),
            "s": v1.FixedLenFeature([], tf.string, "none"),
            "pair": v1.FixedLenFeature([2], tf.float32, [1.0, 2.0]),
            "many": v1.VarLenFeature(tf.int64),
        },
        name="parse",
    )
    strict = v1.parse_example(serialized, {"x": v1.FixedLenFeature([1], tf.float32)}, name="strict")
    x = tf.reshape(parsed["x"], [-1], name="flat_x")
    column = tf.identity(parsed["x"], "column")
    scores = tf.concat([parsed["x"], parsed["pair"]], 1, name="scores")
    classes = tf.stack(
        [parsed["s"], tf.strings.as_string(parsed["n"]), parsed["s"]], 1, name="classes"
    )
    value = tf.add(tf.multiply(x, 0.5), 2.0, name="value")
    value2 = tf.add(tf.multiply(column, 0.5), 3.0, name="value2")
    many = tf.sparse.to_dense(parsed["many"], default_value=-1, name="many_dense")
    i = {"inputs": serialized}

    def classify(**outputs):
        return signature(i, outputs, CLASSIFY)

    def regress(**outputs):
        return signature(i, outputs, REGRESS)

    return {
        "serving_default": classify(scores=scores, classes=classes),
        "classify": classify(scores=scores, classes=classes),
        "scores_only": classify(scores=scores),
        "classes_only": classify(classes=classes),
        "scores_rank1": classify(scores=tf.identity(x, "scores_rank1")),
        "scores_rank3": classify(scores=tf.expand_dims(scores, 2, name="scores_rank3")),
        "scores_double": classify(scores=tf.cast(scores, tf.float64, name="scores_double")),
        "classes_int": classify(classes=tf.cast(scores, tf.int64, name="classes_int")),
        "classes_rank1": classify(scores=scores, classes=tf.identity(parsed["s"], "classes_rank1")),
        "classes_mismatch": classify(scores=column, classes=classes),
        "classes_batch": classify(
            scores=scores, classes=tf.constant([["a", "b", "c"]], name="classes_batch")
        ),
        "classify_extra": classify(scores=scores, other=column),
        "classify_neither": classify(other=column),
        "regress": regress(outputs=value),
        "regress_column": regress(outputs=value2),
        "regress_wide": regress(outputs=scores),
        "regress_scalar": regress(outputs=tf.reduce_sum(x, name="regress_scalar")),
        "regress_double": regress(outputs=tf.cast(value, tf.float64, name="regress_double")),
        "regress_batch": regress(outputs=tf.concat([value, value], 0, name="regress_batch")),
        "regress_other_name": regress(y=value),
        "regress_extra": regress(outputs=value, more=value2),
        "strict_regress": regress(outputs=tf.reshape(strict["x"], [-1], name="strict_y")),
        "predict_examples": signature(
            {"examples": serialized},
            {
                "x": column,
                "n": tf.identity(parsed["n"], "n_out"),
                "s": tf.identity(parsed["s"], "s_out"),
                "many": many,
            },
        ),
        "predict_inputs": signature(i, {"outputs": value}),
        "classify_no_inputs": signature({"examples": serialized}, {"scores": scores}, CLASSIFY),
        "classify_two_inputs": signature(
            {"inputs": serialized, "other": placeholder(tf.float32, [None], "other")},
            {"scores": scores},
            CLASSIFY,
        ),
        "classify_float_input": signature(
            {"inputs": placeholder(tf.float32, [None], "float_input")}, {"scores": scores}, CLASSIFY
        ),
        "odd_method": signature(i, {"outputs": value}, "tensorflow/serving/odd"),
        "no_method": signature(i, {"outputs": value}, ""),
    }


def half_plus(offset: float):
    """x / 2 + offset as predict, regress and classify, with reference variables of TF1."""

    def build():
        a = v1.get_variable("a", initializer=tf.constant(0.5), use_resource=False)
        b = v1.get_variable("b", initializer=tf.constant(offset), use_resource=False)
        x = placeholder(tf.float32, [None], "x")
        y = tf.add(tf.multiply(a, x), b, name="y")
        serialized = placeholder(tf.string, [None], "tf_example")
        parsed = v1.parse_example(
            serialized, {"x": v1.FixedLenFeature([1], tf.float32, [0.0])}, name="parse"
        )
        value = tf.add(tf.multiply(a, parsed["x"]), b, name="value")
        return {
            "serving_default": signature({"x": x}, {"y": y}),
            "regress_x_to_y": signature({"inputs": serialized}, {"outputs": value}, REGRESS),
            "classify_x_to_y": signature({"inputs": serialized}, {"scores": value}, CLASSIFY),
        }

    return build


def table(root: str):
    """A vocabulary look-up from an asset file, and its inverse."""

    def build():
        path = os.path.join(root, "vocabulary.txt")
        with open(path, "w", encoding="utf-8") as f:
            f.write('the\nof\nand\ncafé\n"quoted"\n<unk>\n')
        words = tf.lookup.StaticVocabularyTable(
            tf.lookup.TextFileInitializer(
                path,
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            ),
            1,
        )
        back = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                path,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
            ),
            "?",
        )
        x = placeholder(tf.string, None, "words")
        i = placeholder(tf.int64, None, "ids")
        return {
            "serving_default": signature(
                {"words": x}, {"ids": tf.identity(words.lookup(x), "ids_out")}
            ),
            "back": signature({"ids": i}, {"words": tf.identity(back.lookup(i), "words_out")}),
        }, v1.tables_initializer()

    return build


def fails():
    """Runtime errors of several codes, with the caller's own text in some messages."""
    s = placeholder(tf.string, [None], "s")
    a = placeholder(tf.int32, [None], "a")
    b = placeholder(tf.int32, [None], "b")
    i = placeholder(tf.int32, [None], "i")
    u = placeholder(tf.float32, [None], "u")
    w = placeholder(tf.float32, [None], "w")
    p = placeholder(tf.float32, [None], "p")
    t = placeholder(tf.string, [None], "t")
    with tf.control_dependencies(
        [v1.Assert(tf.reduce_all(p > 0), ["p must be positive", p], name="assert_positive")]
    ):
        checked = tf.identity(p, "checked")
    variable = v1.get_variable("unset", initializer=tf.constant(1.0), use_resource=False)
    return {
        "serving_default": signature({"s": s}, {"y": tf.strings.to_number(s, name="to_number")}),
        "divide": signature({"a": a, "b": b}, {"y": tf.math.floordiv(a, b, name="divide")}),
        "gather": signature(
            {"i": i}, {"y": tf.gather(tf.constant([1.0, 2.0, 3.0]), i, name="gather")}
        ),
        "add": signature({"u": u, "w": w}, {"y": tf.add(u, w, name="add")}),
        "assert": signature({"p": p}, {"y": checked}),
        "decode": signature({"t": t}, {"y": tf.io.decode_base64(t, name="decode")}),
        "json": signature({"t": t}, {"y": tf.io.decode_json_example(t, name="json")}),
        "variable": signature({"u": u}, {"y": tf.add(u, variable, name="with_variable")}),
    }


def counter():
    """State: a counter that requests change and reset."""
    count = v1.get_variable("count", initializer=tf.constant(0.0), use_resource=False)
    delta = placeholder(tf.float32, [], "delta")
    return {
        "serving_default": signature({}, {"count": tf.identity(count, "get")}),
        "increment": signature({}, {"count": v1.assign_add(count, 1.0, name="increment")}),
        "increment_by": signature(
            {"delta": delta}, {"count": v1.assign_add(count, delta, name="increment_by")}
        ),
        "reset": signature({}, {"count": v1.assign(count, 0.0, name="reset")}),
    }


def slow():
    """A loop of `n` steps: the time grows with the input, and nothing is random."""
    n = placeholder(tf.int64, [], "n")
    steps = tf.while_loop(lambda i: i < n, lambda i: i + 1, [tf.constant(0, tf.int64)], name="loop")
    return {"serving_default": signature({"n": n}, {"steps": tf.identity(steps, "steps")})}


def answer(version: int):
    """Each version answers with its number, so that a caller sees which one served it."""

    def build():
        x = placeholder(tf.float32, [None], "x")
        offset = float((version * 2654435761) % 1000)
        found = {"serving_default": signature({"x": x}, {"y": tf.add(x, offset, name="y")})}
        if version % 2:
            found["odd_only"] = signature({"x": x}, {"y": tf.multiply(x, offset, name="odd")})
        return found

    return build


def large():
    """Answers of a chosen size."""
    n = placeholder(tf.int32, [], "n")
    return {
        "serving_default": signature({"n": n}, {"y": tf.range(n, name="range")}),
        "text": signature(
            {"n": n}, {"y": tf.strings.reduce_join(tf.fill([n], "abcdefghij"), name="text")}
        ),
    }


class Keras(tf.Module):
    """A typical TF2 export: resource variables and signatures that are functions."""

    def __init__(self):
        super().__init__()
        self.weight = tf.Variable([[1.0, -1.0], [2.0, 0.5], [0.25, 4.0]], name="weight")
        self.bias = tf.Variable([0.5, -0.5], name="bias")

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="features")])
    def serve(self, features):
        products = tf.expand_dims(features, 2) * self.weight
        return {"dense": tf.reduce_sum(products, 1) + self.bias}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="text"),
            tf.TensorSpec([None], tf.int32, name="count"),
        ]
    )
    def repeat(self, text, count):
        return {"text": text, "length": tf.strings.length(text), "count": count + 1}


def keras(root: str) -> None:
    path = os.path.join(root, "keras", "1")
    shutil.rmtree(path, ignore_errors=True)
    tf.compat.v1.enable_eager_execution()
    module = Keras()
    tf.saved_model.save(
        module, path, signatures={"serving_default": module.serve, "repeat": module.repeat}
    )


def broken(root: str) -> None:
    """A version that cannot load: its saved_model.pb is not a protocol buffer."""
    path = os.path.join(root, "broken", "1")
    os.makedirs(path, exist_ok=True)
    with open(os.path.join(path, "saved_model.pb"), "wb") as f:
        f.write(b"this is not a SavedModel\n")


def main(root: str) -> None:
    os.makedirs(root, exist_ok=True)
    for name, build in [
        ("types", types),
        ("bits", bits),
        ("multi", multi),
        ("shapes", shapes),
        ("examples", examples),
        ("table", table(root)),
        ("fails", fails),
        ("counter", counter),
        ("slow", slow),
        ("large", large),
        ("half_plus_two", half_plus(2.0)),
        ("half_plus_three", half_plus(3.0)),
    ]:
        export(root, name, build)
        print(name, flush=True)
    for version in (1, 2, 3, 10):
        export(root, "versions", answer(version), version)
    os.makedirs(os.path.join(root, "empty"), exist_ok=True)
    broken(root)
    keras(root)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
