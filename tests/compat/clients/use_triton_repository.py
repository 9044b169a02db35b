"""Unloads a model, loads it again, and loads one that was not configured, with tritonclient.

usage: use_triton_repository.py (grpc|http) PORT BASE_PATH

Prints the results as one JSON document. The server serves `half_plus_two`, with administration; BASE_PATH has version 1
of another model, whose input and output are called x and y.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException

PROTOCOL, PORT, BASE_PATH = sys.argv[1:]
triton = importlib.import_module(f"tritonclient.{PROTOCOL}")


def main() -> None:
    """Call and print."""
    client = triton.InferenceServerClient(f"127.0.0.1:{PORT}")

    def index() -> list[list[str]]:
        if PROTOCOL == "http":
            models = client.get_model_repository_index()
        else:
            models = client.get_model_repository_index(as_json=True)["models"]
        return [[model[key] for key in ("name", "version", "state")] for model in models]

    def failure(call: Any, *arguments: Any, **more: Any) -> str:
        try:
            call(*arguments, **more)
        except InferenceServerException as error:
            return str(error.message())
        raise AssertionError("the call did not fail")

    def predict(model: str) -> list[float]:
        x = triton.InferInput("x", [1], "FP32").set_data_from_numpy(np.float32([1]))
        answer: list[float] = client.infer(model, [x]).as_numpy("y").tolist()
        return answer

    answers: dict[str, Any] = {"at first": index()}
    client.load_model("half_plus_two")
    client.unload_model("half_plus_two")
    answers["unloaded"] = [index(), failure(predict, "half_plus_two")]
    answers["ready"] = [client.is_model_ready(name) for name in ("half_plus_two", "no-such-model")]
    answers["twice"] = failure(client.unload_model, "half_plus_two")
    client.load_model("half_plus_two")
    answers["loaded"] = [index(), predict("half_plus_two")]
    answers["unknown"] = failure(client.load_model, "new")
    answers["broken"] = failure(client.load_model, "new", config="{")
    client.load_model("new", config=json.dumps({"base_path": BASE_PATH}))
    answers["new"] = [index(), predict("new")]
    client.unload_model("new")
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
