"""Worker processes of a Python servable: started, used for one batch at a time, replaced when they die.

A crash, a leak or the interpreter lock of a model in a worker affects no other model. A worker is never forked from the
server, because a fork does not copy its threads; it is a new interpreter.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servable.errors import (
    Code,
    DeadlineExceededError,
    LoadError,
    UnavailableError,
    from_code,
)
from servable.loaders._python_channel import Channel
from servable.signature import Signature

_log = logging.getLogger(__name__)

HANG_SECONDS = 2.0
"""A worker that is still busy at its caller's deadline is killed, but never before this time in seconds: a short
deadline must not kill a worker that is only slow."""

_FIRST_BACK_OFF_SECONDS = 0.1
_LONG_BACK_OFF_SECONDS = 1.0
"""Requests wait for workers that are back within this time in seconds, and are refused otherwise."""
_LONGEST_BACK_OFF_SECONDS = 30.0
_CHECK_SECONDS = 1.0
"""The interval of checks of idle workers, in seconds."""
_CLOSE_SECONDS = 3.0
"""How long workers may take to close their models, in seconds."""


class Worker:
    """One process.

    Attributes:
        is_repeatable: Whether its loaded model is repeatable; see `PythonModel`.
    """

    is_repeatable = False

    def __init__(self, directory: Path) -> None:
        """Start the process; it ends with the calling thread."""
        ours, theirs = socket.socketpair()
        isolated = ["-P"] if sys.version_info >= (3, 11) else []
        path = [os.path.abspath(entry) for entry in sys.path]
        program = ["-m", "servable.loaders._python_worker", str(theirs.fileno()), str(directory)]
        with theirs:
            try:
                self.process = subprocess.Popen(
                    [sys.executable, *isolated, *program],
                    stdin=subprocess.DEVNULL,
                    stdout=2,
                    pass_fds=[theirs.fileno()],
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
                )
            except BaseException:
                ours.close()
                raise
        self._channel = Channel(ours)
        self._path = path

    def load(self) -> Mapping[str, Signature]:
        """Wait until the model is loaded.

        Raises:
            LoadError: The load failed, or the process died.
        """
        try:
            self._channel.send(self._path)
            what, *answer = self._channel.receive()
        except (EOFError, OSError):
            raise LoadError(f"the worker {self.end()}", code=Code.INTERNAL) from None
        if what == "failed":
            code, message, may_pass = answer
            raise LoadError(message, code=Code(code), may_pass=may_pass)
        signatures: Mapping[str, Signature] = answer[0]
        self.is_repeatable = answer[1] is True
        return signatures

    def run(self, *call: Any, deadline: float) -> tuple[str, Any]:
        """Run one batch, or raise as `Channel` does."""
        self._channel.send((*call, deadline), deadline=self._limit(deadline))
        answer: tuple[str, Any] = self._channel.receive(deadline=self._limit(deadline))
        return answer

    @staticmethod
    def _limit(deadline: float) -> float:
        return max(deadline, time.monotonic() + HANG_SECONDS)

    def let_go(self) -> None:
        """Ask the process to close its model and end."""
        self._channel.close()

    def end(self, patience_seconds: float = 0.0) -> str:
        """Ensure that the process has ended, and describe how."""
        self._channel.close()
        # A worker whose connection broke is about to end; its exit status explains more.
        try:
            status = self.process.wait(max(patience_seconds, 0.2))
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        if status >= 0:
            return f"exited with status {status}"
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-status).name}"
        return f"was killed by signal {-status}"


class WorkerPool:
    """The workers of one version.

    Attributes:
        signatures: The model's signatures.
        is_repeatable: Whether it declares that runs have no side effects.
    """

    signatures: Mapping[str, Signature]
    is_repeatable = False

    def __init__(self, name: str, directory: Path, count: int) -> None:
        """Start the workers, and wait until each has loaded the model.

        Args:
            name: The servable id, for messages.
            directory: The version directory.
            count: The number of workers.

        Raises:
            LoadError: The model cannot be loaded.
        """
        self._name = name
        self._directory = directory
        self._changed = threading.Condition()
        self._idle: list[Worker] = []
        self._missing = count
        self._count = count
        self._is_closed = False
        self._failure: str | None = None
        self._crashes_in_a_row = 0
        self._last_loss = ""
        self._is_ready = False
        self._loaded: Mapping[str, Signature] = {}
        self._load_error: Exception | None = None
        self._keeper = threading.Thread(target=self._keep, name="python-workers", daemon=True)
        self._keeper.start()
        self.signatures = self._wait_until_loaded()

    def run(self, signature_name: str, inputs: Mapping[str, Any], deadline: float) -> Any:
        """Run one batch on an idle worker.

        Raises:
            ServableError: Raised by the model; UNAVAILABLE if the worker died, or no worker is available;
                DEADLINE_EXCEEDED if it took too long.
        """
        worker = self._take(deadline)
        try:
            what, *answer = worker.run(signature_name, inputs, deadline=deadline)
        except TimeoutError:
            worker.process.kill()
            worker.end()
            self._lose("hung, and was killed")
            raise DeadlineExceededError(
                f"the worker of {self._name} did not answer in time, and was restarted"
            ) from None
        except (EOFError, OSError):
            how = worker.end()
            self._lose(how)
            raise UnavailableError(f"the worker of {self._name} {how} during the request") from None
        except BaseException:
            # A message that cannot be encoded leaves the connection in an undefined state.
            worker.process.kill()
            worker.end()
            self._lose("got a message that cannot be sent")
            raise
        self._give_back(worker)
        if what == "failed":
            raise from_code(*answer)
        return answer[0]

    def close(self) -> None:
        """End all workers, and wait for them."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._keeper.join()

    def _wait_until_loaded(self) -> Mapping[str, Signature]:
        with self._changed:
            self._changed.wait_for(lambda: self._missing == 0 or self._load_error is not None)
            self._is_ready = self._load_error is None
        if self._load_error is not None:
            self.close()
            raise self._load_error
        return self._loaded

    def _take(self, deadline: float) -> Worker:
        with self._changed:
            while True:
                timeout = None if deadline == math.inf else deadline - time.monotonic()
                self._changed.wait_for(
                    lambda: self._idle or self._is_closed or self._failure is not None, timeout
                )
                if self._is_closed:
                    raise UnavailableError(f"{self._name} is being unloaded")
                if not self._idle:
                    if self._failure is None:
                        raise DeadlineExceededError(f"no worker of {self._name} was free in time")
                    raise UnavailableError(f"{self._name} has no worker: {self._failure}")
                worker = self._idle.pop()
                if worker.process.poll() is None:
                    return worker
                self._note_loss(f"{worker.end()} while it was idle")

    def _give_back(self, worker: Worker) -> None:
        with self._changed:
            self._crashes_in_a_row = 0
            self._idle.append(worker)
            self._changed.notify_all()

    def _lose(self, how: str) -> None:
        with self._changed:
            self._note_loss(how)

    def _note_loss(self, how: str) -> None:
        _log.error("A worker of %s %s; it is replaced", self._name, how)
        self._missing += 1
        self._crashes_in_a_row += 1
        self._last_loss = how
        self._changed.notify_all()

    def _keep(self) -> None:
        """Start missing workers. They end with the thread that started them, which is this one."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._missing or self._is_closed, _CHECK_SECONDS)
                if self._is_closed:
                    break
                dead = [worker for worker in self._idle if worker.process.poll() is not None]
                for worker in dead:
                    self._idle.remove(worker)
                    self._note_loss(f"{worker.end()} while it was idle")
                if not self._missing:
                    continue
                if not self._wait_before_restart():
                    break
                missing = self._missing
            self._start(missing)
            if self._load_error is not None:
                break
        self._end_all()

    def _wait_before_restart(self) -> bool:
        """Back off after each loss without an answer in between; false if closed meanwhile."""
        losses = self._crashes_in_a_row - 1
        if losses > 0:
            seconds = min(
                _FIRST_BACK_OFF_SECONDS * 2.0 ** min(losses - 1, 20), _LONGEST_BACK_OFF_SECONDS
            )
            if self._missing == self._count and seconds >= _LONG_BACK_OFF_SECONDS:
                self._failure = f"the last one {self._last_loss}"
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_closed, seconds)
        return not self._is_closed

    def _start(self, count: int) -> None:
        started: list[Worker] = []
        try:
            # Concurrently, so that their imports overlap.
            started.extend(Worker(self._directory) for _ in range(count))
            while started:
                signatures = started[0].load()
                self.is_repeatable = started[0].is_repeatable
                worker = started.pop(0)
                with self._changed:
                    self._loaded = self._loaded or signatures
                    self._missing -= 1
                    self._failure = None
                    self._idle.append(worker)
                    self._changed.notify_all()
        except Exception as error:
            for worker in started:
                worker.process.kill()
                worker.end()
            with self._changed:
                if not self._is_ready:
                    self._load_error = error
                else:
                    _log.error("A worker of %s cannot be replaced: %s", self._name, error)
                    self._crashes_in_a_row += 1
                    if self._missing == self._count:
                        self._failure = str(error)
                self._changed.notify_all()

    def _end_all(self) -> None:
        with self._changed:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.let_go()
        end = time.monotonic() + _CLOSE_SECONDS
        for worker in idle:
            worker.end(patience_seconds=end - time.monotonic())
