"""A real server in a process of its own, for tests."""

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
    """A server that answers.

    Attributes:
        process: The process; tests may send it signals.
        port: What `--port` was; takes gRPC and REST.
        rest_port: What `--rest_api_port` was; takes both, too.
        log_file: Where its output goes.
    """

    process: subprocess.Popen[bytes]
    port: int
    rest_port: int
    log_file: Path

    @property
    def url(self) -> str:
        """What REST paths are appended to."""
        return f"http://127.0.0.1:{self.rest_port}"

    @property
    def log(self) -> str:
        """What it has written so far."""
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
            RuntimeError: The server ended; the message holds its output.
            TimeoutError: It took too long.
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
        flags: Further flags, such as `--model_name=turtle3`; they win over the ports chosen here.
        models: Names of models to wait for; `--model_name` is waited for if none is given.
        command: What to start.
        environment: Variables on top of those of this process.
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
    """Ask a process to end, and end it if it does not.

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
    """A port that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
