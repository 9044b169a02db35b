"""Uses all methods of the stubs of tensorflow-serving-api.

usage: use_tensorflow_serving_api.py PORT BASE_PATH

Prints the results as one JSON document. The server has `half_plus_two` from BASE_PATH, version 1. A reload makes it
serve that under a second name as well.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import grpc
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)
from tensorflow_serving.config import model_server_config_pb2


def spec(signature: str = "", name: str = "half_plus_two") -> model_pb2.ModelSpec:
    """The model and signature of a request."""
    return model_pb2.ModelSpec(name=name, signature_name=signature)


def examples(*values: float) -> input_pb2.Input:
    """One tf.Example for each value."""
    wrapped = input_pb2.Input()
    for value in values:
        feature = wrapped.example_list.examples.add().features.feature["x"]
        feature.float_list.value.append(value)
    return wrapped


def plain(message: Any) -> Any:
    """A message as its JSON mapping."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def failure(call: Any, request: Any) -> list[str]:
    """The code of the client's exception, and its text."""
    try:
        call(request, timeout=30)
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    raise AssertionError("the call did not fail")


def main() -> None:
    """Call and print."""
    port, base_path = sys.argv[1:]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        models = model_service_pb2_grpc.ModelServiceStub(channel)

        def predict(model: model_pb2.ModelSpec) -> predict_pb2.PredictRequest:
            inputs = {"x": tf.make_tensor_proto([1.0, 5.0], tf.float32)}
            return predict_pb2.PredictRequest(model_spec=model, inputs=inputs)

        tasks = [
            inference_pb2.InferenceTask(
                model_spec=spec("regress_x_to_y"), method_name="tensorflow/serving/regress"
            ),
            inference_pb2.InferenceTask(
                model_spec=spec("classify_x_to_y"), method_name="tensorflow/serving/classify"
            ),
        ]
        metadata = prediction.GetModelMetadata(
            get_model_metadata_pb2.GetModelMetadataRequest(
                model_spec=spec(), metadata_field=["signature_def"]
            ),
            timeout=30,
        )
        signatures = get_model_metadata_pb2.SignatureDefMap()
        metadata.metadata["signature_def"].Unpack(signatures)
        served = model_server_config_pb2.ModelServerConfig()
        for name in ("half_plus_two", "second"):
            served.model_config_list.config.add(
                name=name, base_path=base_path, model_platform="tensorflow"
            )

        answers = {
            "predict": tf.make_ndarray(
                prediction.Predict(predict(spec()), timeout=30).outputs["y"]
            ).tolist(),
            "classify": plain(
                prediction.Classify(
                    classification_pb2.ClassificationRequest(
                        model_spec=spec("classify_x_to_y"), input=examples(1.0, 5.0)
                    ),
                    timeout=30,
                )
            ),
            "regress": plain(
                prediction.Regress(
                    regression_pb2.RegressionRequest(
                        model_spec=spec("regress_x_to_y"), input=examples(1.0, 5.0)
                    ),
                    timeout=30,
                )
            ),
            "multi-inference": plain(
                prediction.MultiInference(
                    inference_pb2.MultiInferenceRequest(tasks=tasks, input=examples(5.0)),
                    timeout=30,
                )
            ),
            "status": plain(
                models.GetModelStatus(
                    get_model_status_pb2.GetModelStatusRequest(model_spec=spec()), timeout=30
                )
            ),
            "methods": {
                name: signature.method_name for name, signature in signatures.signature_def.items()
            },
            "not there yet": failure(prediction.Predict, predict(spec(name="second"))),
            "reload": plain(
                models.HandleReloadConfigRequest(
                    model_management_pb2.ReloadConfigRequest(config=served), timeout=30
                )
            ),
            "second": tf.make_ndarray(
                prediction.Predict(predict(spec(name="second")), timeout=30).outputs["y"]
            ).tolist(),
            "wrong signature": failure(prediction.Predict, predict(spec("none"))),
        }
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
