"""The server under test, in the configuration of a recording."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.parse
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import grpc

from support.recordings.cases import Answer, Case, keyed, recorded_bytes
from support.recordings.http import exchange, parse_response
from support.recordings.messages import canonical_response, request_bytes
from support.recordings.profiles import MODELS, PROFILES, WORK, model_names

START_SECONDS = 120.0
HANG_SECONDS = 15.0
"""Without an answer for this long, TensorFlow Serving's outcome was recorded as `hang`."""

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.max_metadata_size", 1 << 20),
)


def replay(
    command: str,
    models: Path,
    cases: Iterable[Case],
    report: Callable[[Case, Any], None],
    log: Path,
) -> None:
    """Send every case, in order within its profile, and report each outcome.

    A server that died or hung is replaced by a new one.

    Args:
        command: Starts the server; flags are appended.
        models: The output of `export_models.py`.
        cases: The cases.
        report: Called with each case and its outcome: an `Answer`, or a list of them for a scenario.
        log: The server's output is appended to it.
    """
    by_profile: dict[str, list[Case]] = {}
    for case in cases:
        by_profile.setdefault(case["profile"], []).append(case)
    for profile, of_profile in by_profile.items():
        with contextlib.ExitStack() as stack:
            server: Server | None = None
            last: Case = {}
            for case in of_profile:
                if case["kind"] == "scenario":
                    with contextlib.closing(Server(command, models, profile, log)) as apart:
                        report(case, [apart.perform_step(step) for step in case["steps"]])
                    continue
                if server is not None and server.has_died():
                    report(last, {"outcome": "crash"})  # it died after its answer
                    server = None
                if server is None:
                    server = stack.enter_context(
                        contextlib.closing(Server(command, models, profile, log))
                    )
                last, outcome = case, server.perform(case)
                report(case, outcome)
                if outcome.get("outcome") in ("crash", "hang"):
                    server.close()
                    server = None


class Server:
    """A running server on free ports, with a scratch folder."""

    def __init__(self, command: str, models: Path, profile: str, log: Path) -> None:
        """Start it and wait until each of its models is available.

        Raises:
            RuntimeError: It did not start.
        """
        self._models = str(models.resolve())
        self._log = log
        self._channel: grpc.Channel | None = None
        config, flags, files = PROFILES[profile]
        self._work = tempfile.mkdtemp(prefix="recordings-")
        if profile == "live":
            shutil.copytree(f"{self._models}/versions/1", f"{self._work}/live/1")
        texts = {**files, "models.config": f"model_config_list {{\n{config}}}\n"}
        for name, text in texts.items():
            Path(self._work, name).write_text(self._local(text))
        self._grpc_port, self._rest_port = _free_ports()
        arguments = [
            *shlex.split(command),
            f"--port={self._grpc_port}",
            f"--rest_api_port={self._rest_port}",
            f"--model_config_file={self._work}/models.config",
            "--max_num_load_retries=0",
            "--file_system_poll_wait_seconds=1",
            *map(self._local, flags),
        ]
        with log.open("ab") as output:
            # A separate process group, so that child processes of the command end with it.
            self._process = subprocess.Popen(
                arguments, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            self._wait_until_available(model_names(config))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill it; may be called repeatedly."""
        if self._channel is not None:
            self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._work, ignore_errors=True)

    def has_died(self, wait_seconds: float = 0.0) -> bool:
        """Whether its process ends within a time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(wait_seconds)
        return self._process.poll() is not None

    def perform(self, case: Case) -> Answer:
        """The outcome of one request; a server that died or hung is an outcome too."""
        if case["kind"] == "rest":
            is_raw = case.get("raw", False)
            answer = self._http(recorded_bytes(case, "send"), is_raw=is_raw)
            if answer.get("outcome") in ("closed", "no answer") and self.has_died(2.0):
                answer = {"outcome": "crash"}
        else:
            answer = self._call(case["method"], request_bytes(case, self._local))
        if answer.get("outcome") == "crash":
            answer["exit_status"] = self._process.poll()
        return answer

    def perform_step(self, step: Case) -> Answer:
        """One step of a scenario: a request, a wait for states of versions, or a change of files."""
        do = step["do"]
        if do in ("rest", "grpc"):
            return self.perform({**step, "kind": do})
        if do == "wait":
            return self._wait_for_states(step["model"], step["states"])
        if do == "copy":
            target = self._local(step["to"])
            shutil.copytree(self._local(step["from"]), f"{target}.partial")
            os.rename(f"{target}.partial", target)
        elif do == "remove":
            shutil.rmtree(self._local(step["path"]))
        elif do == "sleep":
            time.sleep(step["seconds"])
        return {"outcome": "done"}

    def _wait_until_available(self, names: Iterable[str]) -> None:
        end = time.monotonic() + START_SECONDS
        for name in names:
            while "AVAILABLE" not in self._status(name, timeout=2.0).get("body", ""):
                if self.has_died() or time.monotonic() > end:
                    tail = self._log.read_bytes()[-2000:].decode(errors="replace")
                    raise RuntimeError(f"the server did not come up with {name}:\n{tail}")
                time.sleep(0.02)

    def _wait_for_states(self, model: str, wanted: dict[str, str]) -> Answer:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with contextlib.suppress(KeyError, ValueError):
                versions = json.loads(self._status(model)["body"])["model_version_status"]
                states = {each["version"]: each["state"] for each in versions}
                if all(states.get(version) == state for version, state in wanted.items()):
                    return {"outcome": "reached"}
            time.sleep(0.05)
        return {"outcome": "not reached"}

    def _status(self, model: str, timeout: float = HANG_SECONDS) -> Answer:
        path = f"/v1/models/{urllib.parse.quote(model)}"
        return self._http(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), timeout)

    def _http(
        self, request: bytes, timeout: float = HANG_SECONDS, *, is_raw: bool = False
    ) -> Answer:
        """Send exact bytes and read one response, or all of them and whether the server closed."""
        received, is_closed, failure = exchange(self._rest_port, request, timeout, is_raw=is_raw)
        if not is_raw:
            response, _ = parse_response(received, is_final=True)
            return {"outcome": failure or "no answer"} if response is None else self._tidy(response)
        responses, rest = [], received
        while rest:
            response, rest = parse_response(rest, is_final=True)
            if response is None:
                break
            responses.append(self._tidy(response))
        found: Answer = {"responses": responses, "closed": is_closed}
        if rest:
            found["rest"] = rest.decode("latin-1")
        return found

    def _tidy(self, response: Answer) -> Answer:
        """The response in recorded form: the body decompressed, without names of folders."""
        body: bytes = response.pop("bytes")
        if response["headers"].get("content-encoding") == "gzip":
            body = zlib.decompress(body, 31)
            response["headers"].pop("content-length", None)
        if self._work.encode() in body or self._models.encode() in body:
            body = self._portable(body.decode("latin-1")).encode("latin-1")
            response["headers"].pop("content-length", None)
        key, text = keyed("body", body)
        response[key] = text
        return response

    def _call(self, method: str, request: bytes) -> Answer:
        if self._channel is None:
            address = f"127.0.0.1:{self._grpc_port}"
            self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        call = self._channel.unary_unary(method)
        try:
            response = call(request, timeout=HANG_SECONDS)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return {"outcome": "hang"}
            if error.code() is grpc.StatusCode.UNAVAILABLE and self.has_died(2.0):
                return {"outcome": "crash"}
            message = self._portable(error.details() or "")
            return {"code": error.code().name, "message": message}
        canonical = canonical_response(method, response, self._portable)
        return {"code": "OK", "response": canonical.decode("latin-1")}

    def _local(self, text: str) -> str:
        return text.replace(MODELS, self._models).replace(WORK, self._work)

    def _portable(self, text: str) -> str:
        return text.replace(self._work, WORK).replace(self._models, MODELS)


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]
