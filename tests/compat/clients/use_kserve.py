"""Uses the methods of kserve's clients for the Open Inference Protocol.

usage: use_kserve.py (grpc|http) PORT

Prints the results as one JSON document. The server has `half_plus_two`, `words` and `dtypes`, which has an identity for
each dtype.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import (
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferOutput,
    InferRequest,
    InferResponse,
    RESTConfig,
)
from kserve.protocol.infer_type import RequestedOutput

PROTOCOL, PORT = sys.argv[1:]
DATATYPES = {
    "bool": "BOOL",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}

Infer = Callable[[InferRequest], Awaitable[InferResponse]]


def request(model: str, array: Any, datatype: str, *, name: str = "x", **more: Any) -> InferRequest:
    """A request of one input; `binary_data` selects the encoding of its elements."""
    is_binary = more.pop("binary_data", True)
    wanted = InferInput(name, list(array.shape), datatype)
    wanted.set_data_from_numpy(array, binary_data=is_binary)
    return InferRequest(model_name=model, infer_inputs=[wanted], **more)


def only(response: InferResponse) -> InferOutput:
    """The only output."""
    (output,) = response.outputs
    return output


async def is_echoed(infer: Infer, name: str, *, is_binary: bool) -> bool:
    """Whether an identity returns two elements of a dtype, in its dtype and shape."""
    array = np.array([[0, 1]], name)
    parameters: dict[str, Any] = {"signature_name": name}
    if PROTOCOL == "http":
        parameters["binary_data_output"] = is_binary
    asked = request("dtypes", array, DATATYPES[name], binary_data=is_binary, parameters=parameters)
    output = only(await infer(asked))
    got = output.as_numpy()
    return bool(
        output.datatype == DATATYPES[name]
        and got.dtype == array.dtype
        and got.shape == array.shape
        and (got == array).all()
    )


async def failure(call: Awaitable[Any]) -> list[str]:
    """The status of the client's exception, and its text."""
    try:
        await call
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    except httpx.HTTPStatusError as error:
        return [str(error.response.status_code), error.response.json()["error"]]
    raise AssertionError("the call did not fail")


async def asked(infer: Infer) -> dict[str, Any]:
    """The results of inferences."""
    numbers = np.float32([1, 2.5])
    response = await infer(request("half_plus_two", numbers, "FP32", request_id="request 7"))
    words = np.array([b"one", b"three"], np.object_)
    as_json = PROTOCOL == "http"
    answers = {
        "id": response.id,
        "model": response.model_name,
        "numbers": only(response).as_numpy().tolist(),
        "words": only(await infer(request("words", words, "BYTES", name="words")))
        .as_numpy()
        .tolist(),
        "echoed": {name: await is_echoed(infer, name, is_binary=True) for name in DATATYPES},
        "no model": await failure(infer(request("none", numbers, "FP32"))),
        "wrong datatype": await failure(infer(request("half_plus_two", np.float64([1]), "FP64"))),
        "wrong shape": await failure(infer(request("half_plus_two", np.float32([[1]]), "FP32"))),
    }
    if as_json:
        answers["echoed as JSON"] = {
            # The client refuses to send this dtype.
            name: name == "float16" or await is_echoed(infer, name, is_binary=False)
            for name in DATATYPES
        }
        outputs = [RequestedOutput("y", {"binary_data": True})]
        chosen = await infer(
            request("half_plus_two", numbers, "FP32", binary_data=False, request_outputs=outputs)
        )
        answers["chosen"] = only(chosen).as_numpy().tolist()
    return answers


async def over_grpc() -> dict[str, Any]:
    """All results over gRPC."""
    async with InferenceGRPCClient(f"127.0.0.1:{PORT}") as client:
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model ready": await client.is_model_ready("half_plus_two"),
            "another model": await client.is_model_ready("none"),
            **await asked(client.infer),
        }


async def over_http() -> dict[str, Any]:
    """All results over REST."""
    base = f"http://127.0.0.1:{PORT}"
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
        return {
            "live": await client.is_server_live(base),
            "ready": await client.is_server_ready(base),
            "model ready": await client.is_model_ready(base, "half_plus_two"),
            "another model": await client.is_model_ready(base, "none"),
            **await asked(lambda wanted: client.infer(base, wanted, wanted.model_name)),
        }


if __name__ == "__main__":
    logging.disable()
    print(json.dumps(asyncio.run(over_grpc() if PROTOCOL == "grpc" else over_http())))
