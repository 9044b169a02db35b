"""Uses all methods of tritonclient for the Open Inference Protocol.

usage: use_tritonclient.py (grpc|http) PORT

Prints the results as one JSON document. The server has version 1 of `half_plus_two`, `multiple` and `dtypes`, which has
an identity for each dtype, and no administration.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

PROTOCOL = sys.argv[1]
triton = importlib.import_module(f"tritonclient.{PROTOCOL}")

DTYPES = {
    "bool": [True, False],
    "int8": [-128, 127],
    "int16": [-(2**15), 2**15 - 1],
    "int32": [-(2**31), 2**31 - 1],
    "int64": [-(2**63), 2**63 - 1],
    "uint8": [0, 255],
    "uint16": [0, 2**16 - 1],
    "uint32": [0, 2**32 - 1],
    "uint64": [0, 2**64 - 1],
    "float16": [0.1, -65504.0],
    "float32": [0.1, -3.4e38],
    "float64": [0.1 + 0.2, 1.7976931348623157e308],
    "string": [b"caf\xc3\xa9", b""],
}


def tensor(name: str, value: Any, *, is_binary: bool = True, datatype: str = "") -> Any:
    """An input in the client's class."""
    array = np.asarray(value)
    wanted = triton.InferInput(name, list(array.shape), datatype or np_to_triton_dtype(array.dtype))
    if PROTOCOL == "http":
        return wanted.set_data_from_numpy(array, binary_data=is_binary)
    return wanted.set_data_from_numpy(array)


def array_of(name: str, shape: tuple[int, ...]) -> Any:
    """The values of a dtype as an array of this shape."""
    dtype = np.object_ if name == "string" else name
    return np.array(DTYPES[name], dtype).reshape(shape)


def failure(call: Callable[[], Any]) -> list[str]:
    """The status of the client's exception, and its text."""
    try:
        call()
    except InferenceServerException as error:
        return [str(error.status()), error.message()]
    raise AssertionError("the call did not fail")


def echoed(client: Any, *, is_binary: bool) -> dict[str, Any]:
    """By dtype: whether an identity returned the input, in its dtype and shape."""
    same = {}
    for name in DTYPES:
        for shape in ((2,), (2, 1), (1, 1, 2)):
            sent = array_of(name, shape)
            asked: dict[str, Any] = {"parameters": {"signature_name": name}}
            if PROTOCOL == "http":
                asked["outputs"] = [triton.InferRequestedOutput("y", binary_data=is_binary)]
            got = client.infer(
                "dtypes", [tensor("x", sent, is_binary=is_binary)], **asked
            ).as_numpy("y")
            if got.dtype == np.object_ and not is_binary:
                sent = np.array([text.decode() for text in sent.ravel()], np.object_).reshape(shape)
            is_same = got.dtype == sent.dtype and got.shape == shape and (got == sent).all()
            same[name] = bool(is_same) and same.get(name, True)
    return same


def bfloat16(client: Any) -> list[int]:
    """The bytes that an identity of bfloat16 returned for 1.0 and 2.0."""
    wanted = triton.InferInput("x", [2], "BF16")
    raw = np.array([0x3F80, 0x4000], np.uint16).tobytes()
    # As `set_data_from_numpy` of the client for arrays of a package that is not installed here.
    if PROTOCOL == "http":
        wanted._raw_data = raw
        wanted._parameters["binary_data_size"] = len(raw)
    else:
        wanted._raw_content = raw
    result = client.infer("dtypes", [wanted], parameters={"signature_name": "bfloat16"})
    got = result._buffer if PROTOCOL == "http" else result.get_response().raw_output_contents[0]
    return np.frombuffer(got, np.uint16).tolist()


def several(client: Any) -> dict[str, Any]:
    """An answer with two outputs of three, and the values that the client asked to have echoed."""
    inputs = [
        tensor("words", np.array([["a", "b"]], np.object_)),
        tensor("numbers", np.float32([1.5])),
        tensor("counts", np.int32([2])),
    ]
    outputs = [triton.InferRequestedOutput(name) for name in ("twice", "joined")]
    result = client.infer(
        "multiple", inputs, model_version="1", outputs=outputs, request_id="request 7"
    )
    response = result.get_response(**({} if PROTOCOL == "http" else {"as_json": True}))
    return {
        "id": response["id"],
        "model": [response["model_name"], response["model_version"]],
        "outputs": [output["name"] for output in response["outputs"]],
        "twice": result.as_numpy("twice").tolist(),
        "joined": result.as_numpy("joined").astype(str).tolist(),
    }


def packed(client: Any, algorithm: str) -> bool:
    """Whether a large compressed request gets a correct compressed answer."""
    numbers = np.arange(10_000, dtype=np.float32)
    wanted = {
        "request_compression_algorithm": algorithm,
        "response_compression_algorithm": algorithm,
    }
    if PROTOCOL == "grpc":
        wanted = {"compression_algorithm": algorithm}
    result = client.infer("half_plus_two", [tensor("x", numbers)], **wanted)
    return bool((result.as_numpy("y") == numbers / 2 + 2).all())


def main() -> None:
    """Call and print."""
    client = triton.InferenceServerClient(f"127.0.0.1:{sys.argv[2]}")
    as_json = {} if PROTOCOL == "http" else {"as_json": True}
    x = tensor("x", np.float32([1, 2.5]))

    def call(model: str, *inputs: Any, **more: Any) -> Callable[[], Any]:
        return lambda: client.infer(model, list(inputs), **more)

    answers = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model ready": client.is_model_ready("half_plus_two"),
        "version ready": client.is_model_ready("half_plus_two", "1"),
        "server": client.get_server_metadata(**as_json),
        "model": client.get_model_metadata("half_plus_two", **as_json),
        "numbers": client.infer("half_plus_two", [x]).as_numpy("y").tolist(),
        "several": several(client),
        "echoed": echoed(client, is_binary=True),
        "bfloat16": bfloat16(client),
        "no model": failure(call("none", x)),
        "no version": failure(call("half_plus_two", x, model_version="7")),
        "no label": failure(call("half_plus_two", x, model_version="stable")),
        "no input": failure(call("half_plus_two", tensor("z", np.float32([1])))),
        "wrong datatype": failure(call("half_plus_two", tensor("x", np.float64([1])))),
        "wrong shape": failure(call("half_plus_two", tensor("x", np.float32([[1]])))),
        "no output": failure(call("half_plus_two", x, outputs=[triton.InferRequestedOutput("z")])),
        "no signature": failure(call("half_plus_two", x, parameters={"signature_name": "z"})),
        "no repository": failure(client.get_model_repository_index),
    }
    answers["packed"] = [packed(client, algorithm) for algorithm in ("gzip", "deflate")]
    answers["in time"] = (
        client.infer("half_plus_two", [x], timeout=60_000_000).as_numpy("y").tolist()
    )
    # Reading this many numbers takes longer than a microsecond.
    many = tensor("x", np.zeros(1_000_000, np.float32))
    answers["too late"] = failure(call("half_plus_two", many, timeout=1))
    answers["no statistics"] = failure(client.get_inference_statistics)
    answers["no configuration"] = failure(lambda: client.get_model_config("half_plus_two"))
    if PROTOCOL == "http":
        answers["echoed as JSON"] = echoed(client, is_binary=False)
    answers["is another model ready"] = client.is_model_ready("none")
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
