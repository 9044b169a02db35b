"""A real server in a separate process, on free ports of the loopback interface."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = str(Path(sys.executable).with_name("servable"))
START_SECONDS = 60.0


StartServer = Callable[..., "ServerProcess"]
"""The type of the fixture `start_server`."""


def free_port() -> int:
    """Find a port without a listener; another process may still take it first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def model_config(models: Mapping[str, Path], policy: str = "") -> str:
    """Write the text of a `--model_config_file` that serves the given base paths."""
    entries = [
        f"config {{ name: {json.dumps(name)} base_path: {json.dumps(str(path))} "
        f'model_platform: "tensorflow" {policy} }}'
        for name, path in models.items()
    ]
    return "model_config_list {\n" + "\n".join(entries) + "\n}\n"


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Parse the body."""
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of an error answer."""
        return str(self.json()["error"])


class ServerProcess:
    """One run of the `servable` command.

    Attributes:
        port: The value of `--port`.
        rest_port: The value of `--rest_api_port`.
        log_path: The file of its standard output and standard error.
    """

    def __init__(
        self,
        flags: Sequence[str],
        *,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = (COMMAND,),
    ) -> None:
        self.port = free_port()
        self.rest_port = free_port()
        self.log_path = directory / f"server-{self.port}.log"
        argv = [*command, f"--port={self.port}", f"--rest_api_port={self.rest_port}", *flags]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                argv,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    # ---- life cycle

    @property
    def log(self) -> str:
        """Its output so far."""
        return self.log_path.read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self.process.poll() is None

    def wait(self, timeout_seconds: float = 30) -> int:
        """Wait for the end and return the exit status."""
        return self.process.wait(timeout_seconds)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, and close its handles."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def wait_until_answers(self) -> None:
        """Wait until the REST port answers at all."""
        for _ in self._attempts("no answer"):
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.get("/v1/models/none")
                return

    def wait_until_available(
        self, *models: str, version: int | None = None, within_seconds: float = START_SECONDS
    ) -> None:
        """Wait until each model has an available version, or that version."""
        for model in models:
            for _ in self._attempts(f"{model} is not available", within_seconds):
                states = self.states(model)
                wanted = states.values() if version is None else [states.get(version)]
                if "AVAILABLE" in wanted:
                    break

    def wait_until_state(self, model: str, version: int, state: str) -> None:
        """Wait until a version is in this state."""
        for _ in self._attempts(f"{model}/{version} is not in the state {state}"):
            if self.states(model).get(version) == state:
                return

    def _attempts(self, complaint: str, within_seconds: float = START_SECONDS) -> Iterator[None]:
        end = time.monotonic() + within_seconds
        while time.monotonic() < end:
            if not self.is_running:
                status = self.process.returncode
                raise AssertionError(f"the server ended with status {status}:\n{self.log}")
            yield
            time.sleep(0.02)
        raise AssertionError(f"{complaint} after {within_seconds} s:\n{self.log}")

    # ---- REST

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        port: int | None = None,
        timeout: float = 60,
    ) -> Reply:
        """Send one request on a new connection."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", port or self.rest_port, timeout=timeout
        )
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return Reply(answer.status, dict(answer.getheaders()), answer.read())

    def get(self, path: str, *, port: int | None = None) -> Reply:
        """GET a path of the REST API."""
        return self.request("GET", path, port=port)

    def predict(self, model: str, document: object, *, port: int | None = None) -> Reply:
        """POST a document, or raw bytes, to `:predict` of a model or a model's version."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return self.request("POST", f"/v1/models/{model}:predict", body, port=port)

    def states(self, model: str) -> dict[int, str]:
        """The state of each version, from the status API; empty if there is none."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            reply = self.get(f"/v1/models/{model}")
            if reply.status == 200:
                versions = reply.json()["model_version_status"]
                return {int(v["version"]): v["state"] for v in versions}
        return {}


def steps_that_take(server: ServerProcess, seconds: float) -> int:
    """The number of steps that the model `steps` makes in about this time, on this machine when it is idle."""
    steps = 50_000
    fastest = seconds
    for _ in range(3):  # the first run is slower
        start = time.monotonic()
        assert server.predict("steps", {"inputs": steps}).json() == {"outputs": steps}
        fastest = min(fastest, time.monotonic() - start)
    return int(steps * seconds / fastest)
