"""Write files of warm-up requests in the form of TensorFlow's tools.

usage: export_warm_up_requests.py OUTPUT_DIRECTORY        (needs `tensorflow` and `tensorflow-serving-api`)

Most are for `half_plus_two` of the demo models; `raise_*` are for `counter` of the runtime models, and `compiled` is a
separate model, compiled by XLA.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import tensorflow as tf
from tensorflow_serving.apis import input_pb2
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog


def predict(values: list[float], *, signature: str = "", output: str = "") -> PredictionLog:
    """A Predict; the name of its model does not exist and is ignored."""
    log = PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = "no such model"
    request.model_spec.version.value = 77
    request.model_spec.signature_name = signature
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(values, tf.float32))
    if output:
        request.output_filter.append(output)
    return log


def fill(examples: input_pb2.Input, *values: float) -> None:
    """Put examples into a request."""
    for value in values:
        example = examples.example_list.examples.add()
        example.features.feature["x"].float_list.value.append(value)


def classify(signature: str) -> PredictionLog:
    """A Classify."""
    log = PredictionLog()
    log.classify_log.request.model_spec.signature_name = signature
    fill(log.classify_log.request.input, 1, 2)
    return log


def regress(signature: str) -> PredictionLog:
    """A Regress."""
    log = PredictionLog()
    log.regress_log.request.model_spec.signature_name = signature
    fill(log.regress_log.request.input, 1)
    return log


def multi_inference(*signatures: str) -> PredictionLog:
    """A MultiInference of regressions."""
    log = PredictionLog()
    request = log.multi_inference_log.request
    for signature in signatures:
        task = request.tasks.add(method_name="tensorflow/serving/regress")
        task.model_spec.name = "no such model"
        task.model_spec.signature_name = signature
    fill(request.input, 1, 2, 3)
    return log


def raise_counter() -> PredictionLog:
    """One step of the counter, whose value shows the number of calls."""
    log = PredictionLog()
    log.predict_log.request.model_spec.signature_name = "raise"
    return log


def session_run() -> PredictionLog:
    """Records that cannot be replayed."""
    log = PredictionLog()
    log.session_run_log.request.fetch.append("y:0")
    return log


def streamed() -> PredictionLog:
    """Further records that cannot be replayed."""
    log = PredictionLog()
    log.predict_streamed_log.request.add()
    return log


FILES: dict[str, Callable[[], Iterable[PredictionLog]]] = {
    "every_kind": lambda: [
        predict([1, 2]),
        classify("classify_x_to_y"),
        regress("regress_x_to_y"),
        multi_inference("regress_x_to_y"),
        PredictionLog(),
    ],
    "unknown_signature": lambda: [predict([1]), predict([1], signature="none")],
    "unknown_output": lambda: [predict([1], output="z")],
    "classify_that_regresses": lambda: [classify("regress_x_to_y")],
    "regress_that_classifies": lambda: [regress("classify_x_to_y")],
    "multi_inference_twice": lambda: [multi_inference("regress_x_to_y", "regress_x_to_y")],
    "session_run": lambda: [session_run()],
    "streamed": lambda: [streamed()],
    "raise_3": lambda: [raise_counter()] * 3,
    "raise_1000": lambda: [raise_counter()] * 1000,
    "raise_1001": lambda: [raise_counter()] * 1001,
}


class Compiled(tf.Module):
    """A model that XLA compiles, and runs in threads that it starts for this."""

    @tf.function(input_signature=[tf.TensorSpec([None, 64], tf.float32, "x")], jit_compile=True)
    def product(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Multiply by a matrix."""
        return {"y": tf.matmul(x, tf.ones([64, 64]))}


def main(directory: Path) -> None:
    """Write every file."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, logs in FILES.items():
        with tf.io.TFRecordWriter(str(directory / name)) as writer:
            for log in logs():
                writer.write(log.SerializeToString())
    with tf.io.TFRecordWriter(str(directory / "no_record")) as writer:
        writer.write(b"\xff not a PredictionLog")
    request = predict([1, 2]).predict_log.request
    (directory / "predict_request").write_bytes(request.SerializeToString())
    compiled = Compiled()
    tf.saved_model.save(
        compiled, str(directory / "compiled/1"), signatures={"serving_default": compiled.product}
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
