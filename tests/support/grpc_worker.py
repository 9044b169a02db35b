"""A gRPC client of other projects: grpcio with the stubs of tensorflow-serving-api.

Runs as a program in a separate process, because importing the stubs imports TensorFlow. Reads pickled `(method,
arguments)` from standard input and answers pickled results on standard output, in order.
"""

from __future__ import annotations

import functools
import itertools
import os
import pickle
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format, text_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Client:
    """The methods that the tests call; the first argument is the port, or a target of `grpc`."""

    def __init__(self) -> None:
        self._channels: dict[int | str, grpc.Channel] = {}

    def wait_until_imported(self) -> None:
        """Do nothing; the answer shows that TensorFlow is imported."""

    def _channel(self, port: int | str) -> grpc.Channel:
        if port not in self._channels:
            target = port if isinstance(port, str) else f"127.0.0.1:{port}"
            self._channels[port] = grpc.insecure_channel(target, options=NO_LIMIT)
        return self._channels[port]

    def secure(
        self, target: int | str, authority: str, certificate: str = "", key: str = ""
    ) -> None:
        """Use TLS for a target from now on, on a new connection.

        Args:
            target: A port, or a target.
            authority: The file of the authority that must have signed servers' certificates.
            certificate: The file of the client's certificate, if it has one.
            key: The file of its key.
        """

        def content(path: str) -> bytes | None:
            return Path(path).read_bytes() if path else None

        credentials = grpc.ssl_channel_credentials(
            content(authority), content(key), content(certificate)
        )
        options = [*NO_LIMIT, ("grpc.use_local_subchannel_pool", 1)]
        if isinstance(target, str):
            options.append(("grpc.ssl_target_name_override", "localhost"))
        name = target if isinstance(target, str) else f"localhost:{target}"
        before = self._channels.pop(target, None)
        if before is not None:
            before.close()
        self._channels[target] = grpc.secure_channel(name, credentials, options)

    def predict(
        self,
        port: int,
        model: str,
        inputs: dict[str, Any],
        *,
        version: int | None = None,
        label: str | None = None,
        metadata: tuple[tuple[str, str], ...] = (),
        signature: str = "",
        output_filter: tuple[str, ...] = (),
        as_content: bool = True,
        timeout: float | None = 60,
    ) -> dict[str, Any]:
        """Predict; arrays in, arrays out.

        Args:
            port: The port of the server.
            model: The model's name.
            inputs: Arrays by input name.
            version: A version number; the latest by default.
            label: A version label, if any.
            metadata: Metadata of the call.
            signature: A signature; the default one by default.
            output_filter: The outputs to return; all by default.
            as_content: Send values as `tensor_content`, else in the typed fields.
            timeout: The deadline in seconds, if any.

        Returns:
            The output arrays under `outputs`, and the version that answered under `version`.
        """
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model
        request.model_spec.signature_name = signature
        if version is not None:
            request.model_spec.version.value = version
        if label is not None:
            request.model_spec.version_label = label
        request.output_filter.extend(output_filter)
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(to_proto(value, as_content=as_content))
        stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel(port))
        response = stub.Predict(request, timeout=timeout, wait_for_ready=False, metadata=metadata)
        return {
            "version": response.model_spec.version.value,
            "outputs": {name: tf.make_ndarray(value) for name, value in response.outputs.items()},
        }

    def call_raw(
        self,
        port: int,
        method: str,
        body: bytes,
        *,
        service: str = "/tensorflow.serving.PredictionService",
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> bytes:
        """Send bytes to a method of a service, and return the bytes of the answer."""
        call = self._channel(port).unary_unary(f"{service}/{method}")
        answer: bytes = call(body, timeout=60, metadata=metadata)
        return answer

    def status(self, port: int, model: str) -> dict[str, Any]:
        """GetModelStatus as its JSON mapping."""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        stub = model_service_pb2_grpc.ModelServiceStub(self._channel(port))
        response = stub.GetModelStatus(request, timeout=60)
        return json_format.MessageToDict(response, preserving_proto_field_name=True)

    def metadata(self, port: int, model: str) -> dict[str, Any]:
        """The signatures of GetModelMetadata, as their JSON mapping."""
        request = get_model_metadata_pb2.GetModelMetadataRequest()
        request.model_spec.name = model
        request.metadata_field.append("signature_def")
        stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel(port))
        packed = stub.GetModelMetadata(request, timeout=60).metadata["signature_def"]
        signatures = get_model_metadata_pb2.SignatureDefMap()
        packed.Unpack(signatures)
        mapping = json_format.MessageToDict(signatures, preserving_proto_field_name=True)
        signature_def: dict[str, Any] = mapping["signature_def"]
        return signature_def

    def reload(
        self,
        port: int,
        config: str,
        metric_names: tuple[str, ...] = (),
        metadata: tuple[tuple[str, str], ...] = (),
        timeout: float = 60,
    ) -> dict[str, int]:
        """HandleReloadConfigRequest with a configuration in text form.

        Returns:
            The increase of each metric.
        """
        request = model_management_pb2.ReloadConfigRequest(metric_names=metric_names)
        text_format.Parse(config, request.config)
        stub = model_service_pb2_grpc.ModelServiceStub(self._channel(port))
        response = stub.HandleReloadConfigRequest(request, timeout=timeout, metadata=metadata)
        return {metric.name: metric.int64_value_increase for metric in response.metric}

    def predict_until(
        self,
        port: int,
        model: str,
        inputs: dict[str, Any],
        output: str,
        stop_file: str,
        threads: int,
    ) -> dict[str, Counter[Any]]:
        """Send Predict requests from several threads until a file exists.

        Returns:
            The number of answers for each value of the output, and of each error.
        """
        answers: Counter[Any] = Counter()
        errors: Counter[Any] = Counter()

        def work() -> None:
            while not Path(stop_file).exists():
                try:
                    outputs = self.predict(port, model, inputs)["outputs"]
                except grpc.RpcError as error:
                    errors[f"{error.code().name}: {error.details()}"] += 1
                    time.sleep(0.01)
                else:
                    answers[tuple(outputs[output].tolist())] += 1

        in_threads([work] * threads)
        return {"answers": answers, "errors": errors}

    def offsets_until(
        self, port: int, model: str, stop_file: str, threads: int
    ) -> dict[str, Counter[Any]]:
        """Request x / 2 + offset, with a different x each time, until a file exists.

        Returns:
            The number of answers for each offset, and the number of all other answers.
        """
        offsets: Counter[Any] = Counter()
        errors: Counter[Any] = Counter()

        def work(first: int) -> None:
            for n in itertools.count():
                if Path(stop_file).exists():
                    return
                # The number of rows varies as well, and all values are exact.
                x = np.float32([first + (3 * n + row) % 10_000 for row in range(1 + n % 3)])
                try:
                    y = self.predict(port, model, {"x": x})["outputs"]["y"]
                except grpc.RpcError as error:
                    errors[f"{error.code().name}: {error.details()}"] += 1
                    continue
                found = set((y - x / 2).tolist()) if y.shape == x.shape else set()
                if len(found) == 1:
                    offsets[found.pop()] += 1
                else:
                    errors[f"{x}: {y}"] += 1

        in_threads([functools.partial(work, 10_000 * n) for n in range(threads)])
        return {"offsets": offsets, "errors": errors}


def in_threads(work: Sequence[Callable[[], None]]) -> None:
    """Call each function in a separate thread, and wait for all of them."""
    workers = [threading.Thread(target=each) for each in work]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def to_proto(value: Any, *, as_content: bool) -> Any:
    """Convert an array to a TensorProto."""
    array = np.asarray(value)
    proto = tf.make_tensor_proto(array, dtype=tf.as_dtype(array.dtype))
    if as_content or not proto.tensor_content:
        return proto
    # `make_tensor_proto` packs arrays into tensor_content, and single values into the typed fields.
    typed = type(proto)(dtype=proto.dtype, tensor_shape=proto.tensor_shape)
    for element in array.reshape(-1):
        single = tf.make_tensor_proto(element, dtype=tf.as_dtype(array.dtype))
        for field, values in single.ListFields():
            if field.name.endswith("_val"):
                getattr(typed, field.name).extend(values)
    return typed


def main() -> None:
    """Answer calls until standard input ends."""
    calls, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of libraries must not mix with the answers
    client = Client()
    while True:
        try:
            method, arguments, options = pickle.load(calls)
        except EOFError:
            return
        try:
            answer: Any = ("ok", getattr(client, method)(*arguments, **options))
        except grpc.RpcError as error:
            trailers = dict(error.trailing_metadata() or ())
            status = trailers.get("grpc-status-details-bin", b"")
            answer = ("rpc error", (error.code().name, error.details(), status))
        except Exception as error:
            answer = ("failed", repr(error))
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    main()
