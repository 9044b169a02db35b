"""The client of `grpc_worker`: starts it and calls its methods."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("grpc_worker.py")


class RpcError(Exception):
    """An error of the server.

    Attributes:
        code: The name of the gRPC code.
        details: The message.
        status: The `google.rpc.Status` of the answer; empty if it has none.
    """

    def __init__(self, code: str, details: str, status: bytes) -> None:
        super().__init__(f"{code}: {details}")
        self.code = code
        self.details = details
        self.status = status


class GrpcClient:
    """A process with grpcio and the stubs of tensorflow-serving-api; one call at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.call("wait_until_imported")

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of `grpc_worker.Client`.

        Raises:
            RpcError: The server answered with an error.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        pickle.dump((method, arguments, options), stdin)
        stdin.flush()
        kind, answer = pickle.load(stdout)
        if kind == "rpc error":
            raise RpcError(*answer)
        assert kind == "ok", answer
        return answer

    def predict(self, port: int, model: str, inputs: dict[str, Any], **options: Any) -> Any:
        """Call Predict; see `grpc_worker.Client.predict`."""
        return self.call("predict", port, model, inputs, **options)

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=30)
