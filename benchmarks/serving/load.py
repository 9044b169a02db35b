"""Requests, and the load generator that sends them."""

from __future__ import annotations

import json
import signal
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from processes import MODEL, PREDICT_PATH, ServerProcess

INPUT = [1.0, 2.0, 5.0]
OUTPUT = [2.5, 3.0, 4.5]
REST_BODY = json.dumps({"instances": INPUT}).encode()
GRPC_PREDICT = "/tensorflow.serving.PredictionService/Predict"

# The extra time after which the load generator counts as stuck.
GRACE_SECONDS = 30.0


@dataclass(frozen=True)
class Call:
    """One request of one protocol, as files for the load generator.

    Attributes:
        protocol: `rest` or `grpc`.
        path: The path of the request.
        body: The file with its body; for gRPC, with its message.
        header: An additional header, as `NAME: VALUE`.
    """

    protocol: str
    path: str
    body: Path
    header: str | None = None


@dataclass(frozen=True)
class LoadResult:
    """The results of the load generator.

    Attributes:
        requests: The number of correct answers.
        errors: The number of failed requests and wrong answers.
        seconds: The duration.
        p50_micros: The median latency.
        p99_micros: The 99th percentile of the latency.
        cpu_seconds: The CPU time of the load generator itself.
    """

    requests: int
    errors: int
    seconds: float
    p50_micros: float
    p99_micros: float
    cpu_seconds: float


@dataclass(frozen=True)
class BatchRun:
    """The results of a bare loop, or of the scheduler, for one combination of threads and batch size."""

    intra_op_threads: int
    threads: int
    size: int
    rows_per_second: float
    cpu_micros: float
    rows_per_run: float


@dataclass(frozen=True)
class Expectation:
    """The expected answer; for gRPC, the message.

    Attributes:
        answer: A file with the complete answer.
        part: A file with bytes that the answer must contain.
    """

    answer: Path | None = None
    part: Path | None = None


class LoadRun:
    """A running load generator."""

    def __init__(
        self,
        program: Path,
        server: ServerProcess,
        call: Call,
        expectation: Expectation,
        *,
        connections: int,
        seconds: float,
        requests: int | None = None,
        save_answer: Path | None = None,
        streams: int | None = None,
    ) -> None:
        command = [
            str(program),
            f"--protocol={call.protocol}",
            f"--address=127.0.0.1:{server.port}",
            f"--path={call.path}",
            f"--body={call.body}",
            f"--connections={connections}",
            f"--seconds={seconds}",
        ]
        optional = {
            "requests": requests,
            "streams": streams,
            "header": call.header,
            "expect": expectation.answer,
            "expect-part": expectation.part,
            "save-answer": save_answer,
        }
        command += [f"--{name}={value}" for name, value in optional.items() if value is not None]
        self._seconds = seconds
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)

    def stop(self) -> None:
        """Stop sending requests."""
        self._process.send_signal(signal.SIGTERM)

    def result(self) -> LoadResult:
        """Wait for its end and return the results."""
        try:
            output, _ = self._process.communicate(timeout=self._seconds + GRACE_SECONDS)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        if self._process.returncode != 0:
            raise RuntimeError("the load generator failed; see above")
        return LoadResult(**json.loads(output))


def write_calls(directory: Path) -> tuple[Call, Call]:
    """Write the same predict request for REST and for gRPC."""
    rest, grpc = directory / "request.json", directory / "request.pb"
    rest.write_bytes(REST_BODY)
    grpc.write_bytes(predict_request())
    return (
        Call("rest", PREDICT_PATH, rest),
        Call("grpc", GRPC_PREDICT, grpc),
    )


def packed_output() -> bytes:
    """The floats of the right answer in the form of `float_val` in a protobuf message."""
    return struct.pack(f"<{len(OUTPUT)}f", *OUTPUT)


def predict_request(
    floats: bytes = struct.pack(f"<{len(INPUT)}f", *INPUT),
    row: int | None = None,
    name: str = "x",
    *,
    are_doubles: bool = False,
) -> bytes:
    """The `PredictRequest` that TensorFlow's Python client sends for a vector or a matrix.

    Encoded by hand, so that only Python is required.

    Args:
        floats: The elements, four bytes each, or eight for doubles.
        row: The elements in a row of a matrix; `None` for a vector.
        name: The name of the input.
        are_doubles: Whether the elements are doubles.
    """

    def varint(value: int) -> bytes:
        encoded = bytearray()
        while value > 0x7F:
            encoded.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes([*encoded, value])

    def message(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2]) + varint(len(content)) + content

    def integer(number: int, value: int) -> bytes:
        return bytes([number << 3]) + varint(value)

    data_type = 2 if are_doubles else 1
    elements = len(floats) // (8 if are_doubles else 4)
    sizes = [elements] if row is None else [elements // row, row]
    shape = b"".join(message(2, integer(1, size)) for size in sizes)
    tensor = integer(1, data_type) + message(2, shape) + message(4, floats)
    return message(1, message(1, MODEL.encode())) + message(
        2, message(1, name.encode()) + message(2, tensor)
    )
