"""Uses all methods of ovmsclient.

usage: use_ovmsclient.py (grpc|http) PORT

Prints the results as one JSON document. The server has `half_plus_two` and `words`, version 1 of each. The client
always sends a version number; without one it sends 0.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import ovmsclient


def plain(value: Any) -> Any:
    """Arrays as lists, and bytes as text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value


def failure(call: Any, *arguments: Any) -> list[str]:
    """The name of the client's exception, and its text."""
    try:
        call(*arguments)
    except Exception as error:
        return [type(error).__name__, str(error)]
    raise AssertionError("the call did not fail")


def main() -> None:
    """Call and print."""
    make = {"grpc": ovmsclient.make_grpc_client, "http": ovmsclient.make_http_client}[sys.argv[1]]
    client = make(f"127.0.0.1:{sys.argv[2]}")
    answers = {
        "numbers": client.predict({"x": np.array([1.0, 5.0], np.float32)}, "half_plus_two", 1),
        "strings": client.predict({"words": np.array([b"one", b"three"])}, "words", 1),
        "status": client.get_model_status("half_plus_two", 1),
        "metadata": client.get_model_metadata("half_plus_two", 1),
        "no model": failure(client.get_model_status, "none", 1),
        "no version": failure(client.predict, {"x": np.zeros(1, np.float32)}, "half_plus_two"),
        "wrong dtype": failure(client.predict, {"x": np.array(["a"])}, "half_plus_two", 1),
    }
    print(json.dumps(plain(answers)))


if __name__ == "__main__":
    main()
