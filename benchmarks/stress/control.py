"""The operator of the running server: reloads, status requests, and kills of workers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from tensorflow_serving.apis import model_management_pb2

from servable._server.config.text_proto import new_message
from served import ServerProcess
from world import Model

RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
RELOAD_SECONDS = 60.0
CODES = {code.value[0]: code.name for code in grpc.StatusCode}


class Operator:
    """An administrative client of the server."""

    def __init__(self, server: ServerProcess) -> None:
        """Set the server; connects on demand."""
        self._server = server
        channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
        # Our options are in a field that the published stubs do not have, so the request is sent as bytes.
        self._reload = channel.unary_unary(
            RELOAD, None, model_management_pb2.ReloadConfigResponse.FromString
        )

    def reload(self, entries: Sequence[str]) -> str:
        """Replace the configuration.

        Args:
            entries: One for each model, in text format.

        Returns:
            The code of the answer.
        """
        from google.protobuf import text_format

        config: Any = new_message("tensorflow.serving.ModelServerConfig")
        text_format.Parse("model_config_list { " + " ".join(entries) + " }", config)
        # In a ReloadConfigRequest, the configuration is the first field.
        content = config.SerializeToString()
        request = b"\x0a" + _varint(len(content)) + content
        try:
            answer = self._reload(request, timeout=RELOAD_SECONDS)
        except grpc.RpcError as error:
            code: str = error.code().name
            return code
        return CODES[answer.status.error_code]

    def states(self, model: str) -> dict[int, tuple[str, str]]:
        """The state and the error code of each version, from the model status."""
        status, body = self._server.request("GET", f"/v1/models/{model}")
        if status != 200:
            return {}
        return {
            int(each["version"]): (each["state"], each["status"]["error_code"])
            for each in json.loads(body)["model_version_status"]
        }

    def is_at_rest(self, model: Model, states: dict[int, tuple[str, str]]) -> bool:
        """Whether the model has reached its expected state."""
        by_state = {
            state: {version for version, (seen, _) in states.items() if seen == state}
            for state, _ in states.values()
        }
        available, ended = by_state.pop("AVAILABLE", set()), by_state.pop("END", set())
        failed = {version for version in ended if states[version][1] != "OK"}
        failing = model.failing()
        return (
            not by_state
            and available == model.served
            and failing.keys() <= failed
            and all(states[v][1] in codes for v, codes in failing.items() if codes)
            and len(self.workers(model)) == model.workers * len(model.served)
        )

    def workers(self, model: Model) -> list[int]:
        """The worker processes of a model, among the server's children."""
        if not model.workers:
            return []
        name, found = os.fsencode(f"{model.name}/"), []
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parent = (directory / "stat").read_text().rpartition(")")[2].split()[1]
                command = (directory / "cmdline").read_bytes().split(b"\0")
                is_child = int(parent) == self._server.process.pid
                # Workers have the version they run, such as `rude/1`, in their command line.
                if is_child and any(part.startswith(name) for part in command):
                    found.append(int(directory.name))
        return found

    def kill_worker(self, process: int) -> None:
        """Kill a worker."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])
