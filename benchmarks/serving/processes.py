"""The measured servers: separate processes, and their resource usage from the kernel."""

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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

MODEL = "half_plus_two"
PREDICT_PATH = f"/v1/models/{MODEL}:predict"
STATUS_PATH = f"/v1/models/{MODEL}"
METADATA_PATH = f"{STATUS_PATH}/metadata"

START_SECONDS = 60.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.002
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def worker_threads() -> int:
    """The server's default number of threads: one for each usable processor."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class ServerProcess:
    """A running server on one port of the loopback interface."""

    process: subprocess.Popen[bytes]
    port: int

    def cpu_seconds(self) -> float:
        """The CPU time of the process since its start, user and system, all threads.

        The kernel counts in hundredths of a second, so measurements should take seconds.
        """
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        # The name in parentheses may contain anything; utime and stime are the 12th and 13th fields after it.
        user_ticks, system_ticks = stat.rpartition(")")[2].split()[11:13]
        return (int(user_ticks) + int(system_ticks)) / TICKS_PER_SECOND

    def resident_bytes(self) -> int:
        """The resident memory of the process, libraries included."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"process {self.process.pid} has no VmRSS")

    def request(
        self, method: str, path: str, body: bytes | None = None, header: tuple[str, str] = ("", "")
    ) -> tuple[int, bytes]:
        """Send one REST request on a new connection; returns the status and the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict([header]) if header[0] else {})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def wait_until_answers(
        self, body: bytes, expected: object = None, header: tuple[str, str] = ("", "")
    ) -> None:
        """Wait for the first correct answer to a predict request.

        Args:
            body: The request.
            expected: The required `predictions`; `None` for any.
            header: A required header of the request.
        """
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, answer = self.request("POST", PREDICT_PATH, body, header)
                if status == 200 and expected in (None, json.loads(answer)["predictions"]):
                    return
            time.sleep(POLL_SECONDS)
        raise RuntimeError("the server did not answer; run it by hand to see why")

    def available_versions(self) -> set[int]:
        """The versions that the server reports as available."""
        status, answer = self.request("GET", STATUS_PATH)
        if status != 200:
            raise RuntimeError(f"the status of {MODEL} is answered with {status}: {answer!r}")
        versions = json.loads(answer)["model_version_status"]
        return {int(each["version"]) for each in versions if each["state"] == "AVAILABLE"}


@contextlib.contextmanager
def running_server(base_path: Path, log: Path, *flags: str) -> Iterator[ServerProcess]:
    """Run the product, as a user would, for one model, called `MODEL`; it may not answer yet.

    Args:
        base_path: The directory of the model's versions.
        log: The file of its output.
        flags: Further flags of the command line.
    """
    own_flags = (f"--model_name={MODEL}", f"--model_base_path={base_path}")
    with running_with_flags(log, *own_flags, *flags) as server:
        yield server


@contextlib.contextmanager
def running_with_flags(log: Path, *flags: str) -> Iterator[ServerProcess]:
    """Run the product; it may not answer yet.

    Args:
        log: The file of its output.
        flags: The flags, without those for ports.
    """
    port = free_port()
    # One port accepts both protocols; the other is disabled.
    ports = (f"--port={port}", "--rest_api_port=0")
    with (
        log.open("ab") as output,
        running([*server_command(), *flags, *ports], output.fileno()) as process,
    ):
        yield ServerProcess(process, port)


def server_command() -> list[str]:
    """The installed command or, if the package is only on the path, the package."""
    command = Path(sys.executable).with_name("servable")
    if command.exists():
        return [str(command)]
    return [sys.executable, "-m", "servable"]


@contextlib.contextmanager
def running_echo(program: Path, rest_answer: Path, grpc_answer: Path) -> Iterator[ServerProcess]:
    """Run the echo, which answers with the given bytes.

    Args:
        program: The executable.
        rest_answer: A file with the body of REST answers.
        grpc_answer: A file with the message of gRPC answers.
    """
    command = [
        str(program),
        f"--worker-threads={worker_threads()}",
        f"--rest-answer={rest_answer}",
        f"--grpc-answer={grpc_answer}",
    ]
    with running(command, subprocess.PIPE) as process:
        assert process.stdout is not None
        address = process.stdout.readline().decode()
        yield ServerProcess(process, int(address.rpartition(":")[2]))


@contextlib.contextmanager
def running(
    command: list[str],
    output: int,
    errors: int | None = None,
    *,
    stdin: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the end of the block; then terminate it, and kill it if necessary.

    Args:
        command: The command.
        output: The file of its output, or `subprocess.PIPE`.
        errors: The file of its standard error; by default that of its output if it is a file, otherwise our own.
        stdin: The file of its input, or `subprocess.PIPE`; by default our own.
        environment: Its environment; by default our own.
    """
    if errors is None and output >= 0:
        errors = output
    process = subprocess.Popen(command, stdin=stdin, stdout=output, stderr=errors, env=environment)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def free_port() -> int:
    """Find a port of the loopback interface without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
