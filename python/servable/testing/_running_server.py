"""A real server in a separate process, for tests."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A running server.

    Attributes:
        process: The process; tests may send it signals.
        port: The value of `--port`; takes gRPC and REST.
        rest_port: The value of `--rest_api_port`; takes both, too.
        log_file: The file of its output.
    """

    process: subprocess.Popen[bytes]
    port: int
    rest_port: int
    log_file: Path

    @property
    def url(self) -> str:
        """The base URL of REST."""
        return f"http://127.0.0.1:{self.rest_port}"

    @property
    def log(self) -> str:
        """The output so far."""
        return self.log_file.read_text(errors="replace")

    def is_available(self, model: str) -> bool:
        """Whether some version of a model answers requests."""
        try:
            with urllib.request.urlopen(f"{self.url}/v1/models/{model}", timeout=5) as response:
                return b'"AVAILABLE"' in response.read()
        except (urllib.error.URLError, OSError):
            return False

    def wait_until_available(self, model: str, timeout_seconds: float = 60.0) -> None:
        """Wait until some version of a model answers requests.

        Raises:
            RuntimeError: The server ended; the message contains its output.
            TimeoutError: The time-out has passed.
        """
        deadline = time.monotonic() + timeout_seconds
        while not self.is_available(model):
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended ({self.process.returncode}):\n{self.log}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{model} did not become available:\n{self.log}")
            time.sleep(0.02)


@contextlib.contextmanager
def running_server(
    *flags: str,
    models: Sequence[str] = (),
    command: Sequence[str] = (sys.executable, "-m", "servable"),
    environment: Mapping[str, str] | None = None,
    timeout_seconds: float = 60.0,
) -> Iterator[RunningServer]:
    """Start a server on free ports, wait for its models, and end it afterwards.

    Args:
        flags: Further flags, such as `--model_name=turtle3`; they take precedence over the ports chosen here.
        models: Names of models to wait for; by default the one of `--model_name`.
        command: The command to start.
        environment: Variables in addition to those of this process.
        timeout_seconds: How long to wait for each model.

    Yields:
        The server.
    """
    port, rest_port = free_port(), free_port()
    names = list(models) or [
        flag.partition("=")[2] for flag in flags if flag.startswith("--model_name=")
    ]
    with tempfile.TemporaryDirectory(prefix="servable-test-") as directory:
        log_file = Path(directory, "server.log")
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [*command, f"--port={port}", f"--rest_api_port={rest_port}", *flags],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )
        server = RunningServer(process, port, rest_port, log_file)
        try:
            for name in names:
                server.wait_until_available(name, timeout_seconds)
            yield server
        finally:
            end(process)


def end(process: subprocess.Popen[bytes], timeout_seconds: float = 20.0) -> int:
    """Terminate a process, and kill it if it does not end.

    Returns:
        Its exit status.
    """
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def free_port() -> int:
    """A port without a listener at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
