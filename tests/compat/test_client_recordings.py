"""The Python client decodes the answers of TensorFlow Serving, byte for byte."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servable.client._exchange import Codec, Exchange, Target
from servable.client._grpc_codec import GrpcCodec
from servable.client._messages import message_class
from servable.client._rest_codec import RestCodec
from servable.client._results import InferenceTask, State
from servable.errors import BackendError

M = Target("m")
EXAMPLES = [{"x": 1.0}]
TYPED_FIELDS = ("float_val", "double_val", "int_val", "int64_val", "bool_val", "string_val")
TYPED_FIELDS += ("uint32_val", "uint64_val")

UNPARSABLE = b"unparsable:"
"""The marker of answers with labels that are no UTF-8, which Python's protobuf refuses."""

CALLS: dict[str, Callable[[Codec], Exchange[Any]]] = {
    "Predict": lambda codec: codec.predict(M, {}, [], None),
    "Classify": lambda codec: codec.classify(M, EXAMPLES, None),
    "Regress": lambda codec: codec.regress(M, EXAMPLES, None),
    "MultiInference": lambda c: c.multi_inference(M, EXAMPLES, None, [InferenceTask("classify")]),
    "GetModelMetadata": lambda codec: codec.metadata(M),
    "GetModelStatus": lambda codec: codec.status(M),
}


def recorded(file: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(file, "rt") as lines:
        yield from map(json.loads, lines)


@pytest.fixture(scope="module")
def grpc_answers(conformance_dir: Path) -> dict[str, list[bytes]]:
    """The successful answers of each method."""
    found: dict[str, list[bytes]] = {}
    for line in recorded(conformance_dir / "golden/grpc.jsonl.gz"):
        answer = line["response"]
        if answer.get("code") == "OK" and isinstance(answer.get("response"), str):
            method = line["method"].rpartition("/")[2]
            body = answer["response"].encode("latin-1")
            found.setdefault(method, []).append(body.removeprefix(UNPARSABLE))
    return found


def typed_values(tensor: Any) -> list[Any] | None:
    """The values of a tensor whose field protobuf can decode; None for others."""
    for field in TYPED_FIELDS:
        values = getattr(tensor, field)
        if values and len(values) == math.prod(dim.size for dim in tensor.tensor_shape.dim):
            return list(values)
    return None


def is_beyond_numpy(answer: bytes) -> bool:
    """Whether an answer contains a tensor with more or longer axes than NumPy allows."""
    message = message_class("tensorflow.serving.PredictResponse").FromString(answer)
    shapes = [tensor.tensor_shape.dim for tensor in message.outputs.values()]
    return any(len(dims) > 32 or any(dim.size > 2**60 for dim in dims) for dims in shapes)


@pytest.mark.parametrize("method", CALLS)
def test_answers_of_grpc_are_read(method: str, grpc_answers: dict[str, list[bytes]]) -> None:
    read = CALLS[method](GrpcCodec()).read
    for answer in grpc_answers[method]:
        if method == "Predict" and is_beyond_numpy(answer):
            with contextlib.suppress(BackendError):  # no other error, and no crash
                read(answer)
            continue
        found = read(answer)
        if method != "Predict":
            continue
        message = message_class("tensorflow.serving.PredictResponse").FromString(answer)
        assert set(found) == set(message.outputs)
        assert found.version == message.model_spec.version.value
        for name, tensor in message.outputs.items():
            assert found[name].shape == tuple(dim.size for dim in tensor.tensor_shape.dim)
            values = typed_values(tensor)
            if values is not None:
                np.testing.assert_equal(found[name].reshape(-1).tolist(), values)


def test_answers_of_rest_are_read(conformance_dir: Path) -> None:
    codec = RestCodec()
    read: Counter[str] = Counter()
    for line in recorded(conformance_dir / "golden/rest.jsonl.gz"):
        answer = line["response"]
        is_call = line["send"].startswith(("GET ", "POST "))
        if answer.get("status") != 200 or "body" not in answer or not is_call:
            continue
        path, body = line["send"].split()[1], answer["body"].encode()
        if path.endswith("/metadata"):
            assert codec.metadata(M).read(body).signatures
            read["metadata"] += 1
        elif line["send"].startswith("GET "):
            assert all(isinstance(v.state, State) for v in codec.status(M).read(body))
            read["status"] += 1
        elif path.endswith(":classify"):
            assert len(codec.classify(M, EXAMPLES, None).read(body))
            read["classify"] += 1
        elif path.endswith(":regress"):
            assert codec.regress(M, EXAMPLES, None).read(body).dtype == np.float32
            read["regress"] += 1
    assert set(read) == {"metadata", "status", "classify", "regress"}
