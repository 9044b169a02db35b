"""The messages of the gRPC API, in comparable and readable form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from support.recordings.cases import Case, recorded_bytes

UNPARSABLE = b"unparsable:"
"""The prefix of a recorded answer that Python's protobuf refuses."""

# The request and the response of each method of the API.
MESSAGES: dict[str, tuple[Any, Any]] = {
    "Predict": (predict_pb2.PredictRequest, predict_pb2.PredictResponse),
    "Classify": (
        classification_pb2.ClassificationRequest,
        classification_pb2.ClassificationResponse,
    ),
    "Regress": (regression_pb2.RegressionRequest, regression_pb2.RegressionResponse),
    "MultiInference": (
        inference_pb2.MultiInferenceRequest,
        inference_pb2.MultiInferenceResponse,
    ),
    "GetModelMetadata": (
        get_model_metadata_pb2.GetModelMetadataRequest,
        get_model_metadata_pb2.GetModelMetadataResponse,
    ),
    "GetModelStatus": (
        get_model_status_pb2.GetModelStatusRequest,
        get_model_status_pb2.GetModelStatusResponse,
    ),
    "HandleReloadConfigRequest": (
        model_management_pb2.ReloadConfigRequest,
        model_management_pb2.ReloadConfigResponse,
    ),
}


def _messages(method: str) -> tuple[Any, Any] | None:
    """The message classes of a full method name; `None` for a method outside the API."""
    return MESSAGES.get(method.rpartition("/")[2])


def request_bytes(case: Case, local: Callable[[str], str]) -> bytes:
    """The serialized request of a case; `local` inserts the names of folders."""
    messages = _messages(case["method"])
    if "send_text" not in case or messages is None:
        return recorded_bytes(case, "send")
    request: bytes = text_format.Parse(local(case["send_text"]), messages[0]()).SerializeToString()
    return request


def canonical_response(method: str, data: bytes, portable: Callable[[str], str]) -> bytes:
    """A response with sorted maps and, by `portable`, without names of folders."""
    messages = _messages(method)
    if messages is None:
        return data
    message = messages[1]()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return UNPARSABLE + data
    for signatures in getattr(message, "metadata", {}).values():
        inner = get_model_metadata_pb2.SignatureDefMap()
        if signatures.Is(inner.DESCRIPTOR) and signatures.Unpack(inner):
            signatures.value = inner.SerializeToString(deterministic=True)
    statuses = [each.status for each in getattr(message, "model_version_status", [])]
    if hasattr(message, "status"):
        statuses.append(message.status)
    for status in statuses:
        status.error_message = portable(status.error_message)
    canonical: bytes = message.SerializeToString(deterministic=True)
    return canonical


def readable_response(method: str, data: bytes) -> str:
    """A response as text."""
    messages = _messages(method)
    if messages is None:
        return repr(data)
    try:
        return text_format.MessageToString(messages[1].FromString(data), as_one_line=True)
    except DecodeError:
        return f"not a message: {data!r}"
