"""Worker processes that run one version: started, loaded, watched, replaced when they end.

A crash, a leak or the interpreter lock of a model in a worker affects no other model. A worker is never forked from the
server, because a fork does not copy its threads; it is a new interpreter. Requests do not pass through this module, but
through the crate `worker`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from servable.errors import Code, FailedPreconditionError, LoadError
from servable.lifecycle._loader import Loader
from servable.lifecycle._loader import Servable as LoadedServable

if TYPE_CHECKING:
    from servable._server.border.gateway import Servable, Workers

_log = logging.getLogger(__name__)

_FIRST_BACK_OFF_SECONDS = 0.1
_LONG_BACK_OFF_SECONDS = 1.0
"""Requests wait for workers that are back within this time in seconds, and are refused otherwise."""
_LONGEST_BACK_OFF_SECONDS = 30.0
_CLOSE_SECONDS = 3.0
"""How long workers may take to close their models, in seconds."""
_END_SECONDS = 0.2
"""How long a worker whose connection broke may take to end by itself, in seconds: its exit status explains more."""

_MAX_ANSWER_BYTES = 64 << 20
_LENGTH = struct.Struct("<I")

LOADED, FAILED = b"L", b"F"
"""The first byte of a worker's answer: a description follows, or the error as JSON."""


class WorkerDiedError(LoadError):
    """A worker ended before it had loaded its version.

    Attributes:
        end: How, such as `was killed by SIGSEGV`.
    """

    def __init__(self, end: str) -> None:
        """Make the error."""
        super().__init__(f"the worker {end}", code=Code.INTERNAL)
        self.end = end


class WorkerProcess:
    """One process, which is asked to load a version.

    Attributes:
        process: The process.
    """

    def __init__(self, name: str, make_loader: Callable[[], Loader], slots: int = 0) -> None:
        """Start the process; it ends with the calling thread.

        Args:
            name: The servable id, shown in lists of processes.
            make_loader: Makes the loader of the version, in the worker; pickled.
            slots: How many requests it serves at once. Without any, it only tries to load the version.

        Raises:
            OSError: It cannot be started.
        """
        path = [os.path.abspath(entry) for entry in sys.path]
        job = pickle.dumps(path) + pickle.dumps(make_loader)
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            pairs = [socket.socketpair() for _ in range(slots + 1)]
            for our, their in pairs:
                ours.enter_context(our)
                theirs.enter_context(their)
            descriptors = [their.fileno() for _, their in pairs]
            isolated = ["-P"] if sys.version_info >= (3, 11) else []
            program = ["-m", "servable.loaders._worker", name, *map(str, descriptors)]
            self.process = subprocess.Popen(
                [sys.executable, *isolated, *program],
                stdin=subprocess.PIPE,
                stdout=2,
                pass_fds=descriptors,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            )
            (self._control, *self._slots), _ = zip(*pairs, strict=True)
            ours.pop_all()
        # The process may have ended already, which the missing answer tells.
        with contextlib.suppress(OSError), self.process.stdin as stdin:  # type: ignore[union-attr]
            stdin.write(job)

    def load(self) -> bytes:
        """Wait until the version is loaded.

        Returns:
            Its description, for `Workers.add`.

        Raises:
            LoadError: The load failed.
            WorkerDiedError: The process died.
        """
        answer = self._receive()
        if answer is None:
            raise WorkerDiedError(self.end())
        if answer[:1] == LOADED:
            return answer[1:]
        raise _load_error(answer[1:])

    def join(self, workers: Workers, description: bytes) -> int:
        """Have the process run requests.

        Returns:
            Its number.

        Raises:
            ServableError: The description is damaged, or that of another model.
        """
        slots, self._slots = self._slots, []
        control = self._control.dup().detach()
        return workers.add(control, [slot.detach() for slot in slots], description)

    def wait(self) -> None:
        """Wait until the process or its connection ends."""
        with contextlib.suppress(OSError):
            while self._control.recv(4096):
                pass

    def disconnect(self) -> None:
        """Close the connection: the process ends, and `load` and `wait` return. Called from any thread."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)

    def end(self, timeout_seconds: float = _END_SECONDS) -> str:
        """Ensure that the process has ended, and describe how."""
        self.disconnect()
        for slot in self._slots:
            slot.close()
        try:
            status = self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._control.close()
        if status >= 0:
            return f"exited with status {status}"
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-status).name}"
        return f"was killed by signal {-status}"

    def _receive(self) -> bytes | None:
        """The answer; `None` if the process has ended. A length that no answer has counts as its end."""
        with contextlib.suppress(OSError):
            header = self._take(_LENGTH.size)
            if header is not None:
                (length,) = _LENGTH.unpack(header)
                if length <= _MAX_ANSWER_BYTES:
                    return self._take(length)
        return None

    def _take(self, length: int) -> bytes | None:
        taken = bytearray()
        while len(taken) < length:
            data = self._control.recv(min(length - len(taken), 1 << 20))
            if not data:
                return None
            taken += data
        return bytes(taken)


def send_answer(control: socket.socket, kind: bytes, content: bytes) -> None:
    """Send the answer of a worker: its description, or its error."""
    control.sendall(_LENGTH.pack(len(kind) + len(content)) + kind + content)


def _load_error(document: bytes) -> LoadError:
    """The error that a worker reports; what it says is not trusted."""
    try:
        error: dict[str, Any] = json.loads(document)
        may_pass = error["may_pass"]
        return LoadError(str(error["message"]), code=Code(error["code"]), may_pass=bool(may_pass))
    except (ValueError, LookupError, TypeError):
        return LoadError("the worker sent a damaged answer", code=Code.INTERNAL)


def try_load(name: str, make_loader: Callable[[], Loader]) -> None:
    """Load a version in a process that then ends.

    Args:
        name: The servable id, shown in lists of processes.
        make_loader: Makes the loader of the version, in that process; pickled.

    Raises:
        LoadError: The load failed, or the process died.
    """
    worker = WorkerProcess(name, make_loader)
    try:
        worker.load()
    except LoadError as error:
        raise LoadError(
            f"trial load: {error.message}", code=error.code, may_pass=error.may_pass
        ) from None
    finally:
        worker.process.kill()
        worker.end()


class WorkerPool:
    """The workers of one version, each with a thread that watches it.

    Attributes:
        servable: Runs the version in the workers.
    """

    servable: Servable

    def __init__(
        self, name: str, make_loader: Callable[[], Loader], *, processes: int = 1, slots: int = 1
    ) -> None:
        """Start the workers, and wait until each has loaded the version.

        Args:
            name: The servable id, for messages.
            make_loader: Makes the loader of the version, in a worker; pickled.
            processes: The number of workers.
            slots: How many requests each of them runs at once.

        Raises:
            LoadError: The version cannot be loaded.
        """
        from servable._server.border.gateway import Workers

        self._name = name
        self._make_loader = make_loader
        self._slots = slots
        self._workers = Workers(name, processes * slots)
        self._changed = threading.Condition()
        self._unloaded = processes
        self._load_error: Exception | None = None
        self._is_closed = False
        self._alive: set[WorkerProcess] = set()
        self._threads = [
            threading.Thread(target=self._watch, name="worker-process", daemon=True)
            for _ in range(processes)
        ]
        for thread in self._threads:
            thread.start()
        with self._changed:
            self._changed.wait_for(lambda: not self._unloaded or self._load_error is not None)
        try:
            if self._load_error is not None:
                raise self._load_error
            self.servable = self._workers.servable()
        except BaseException:
            self.close()
            raise

    def stop_replacing(self) -> None:
        """Replace no worker that ends from now on. Called before the servable is unloaded, which ends them."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def close(self) -> None:
        """End all workers, and wait for them. The servable must have been unloaded."""
        with self._changed:
            self._is_closed = True
            for worker in self._alive:
                worker.disconnect()
            self._changed.notify_all()
        self._workers.close()
        for thread in self._threads:
            thread.join()

    def _watch(self) -> None:
        """Keep one process running. It ends with the thread that has started it, which is this one."""
        is_loaded = False
        losses = 0
        how = ""
        while self._back_off(losses, how):
            try:
                worker = WorkerProcess(self._name, self._make_loader, self._slots + 1)
            except Exception as error:  # the system refuses processes or descriptors
                if not is_loaded:
                    self._fail(LoadError(f"cannot start a worker: {error}"))
                    return
                how, losses = self._report_failed_replacement(error), losses + 1
                continue
            self._set_alive(worker, is_alive=True)
            try:
                number = worker.join(self._workers, worker.load())
            except Exception as error:
                worker.process.kill()
                worker.end()
                self._set_alive(worker, is_alive=False)
                if not is_loaded:
                    self._fail(error)
                    return
                how, losses = self._report_failed_replacement(error), losses + 1
                continue
            _log.info("The process %d runs %s", worker.process.pid, self._name)
            if not is_loaded:
                is_loaded = True
                with self._changed:
                    self._unloaded -= 1
                    self._changed.notify_all()
            worker.wait()
            replacement_reason = self._workers.replacement_reason(number)
            timeout = _CLOSE_SECONDS if self._is_closed else _END_SECONDS
            ended = worker.end(timeout)
            self._set_alive(worker, is_alive=False)
            how = replacement_reason or ended
            was_busy, has_answered = self._workers.remove(number, how)
            losses = 1 if has_answered else losses + 1
            if not self._is_closed:
                when = "" if was_busy else " while it was idle"
                _log.error("A worker of %s %s%s; it is replaced", self._name, how, when)
                how = f"the last one {how}"

    def _back_off(self, losses: int, how: str) -> bool:
        """Wait after each loss without an answer in between; false if closed meanwhile."""
        if losses > 1:
            seconds = _FIRST_BACK_OFF_SECONDS * 2.0 ** min(losses - 2, 20)
            seconds = min(seconds, _LONGEST_BACK_OFF_SECONDS)
            if seconds >= _LONG_BACK_OFF_SECONDS:
                self._workers.refuse(how)
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed, seconds)
        return not self._is_closed

    def _report_failed_replacement(self, error: Exception) -> str:
        if not self._is_closed:
            _log.error("A worker of %s cannot be replaced: %s", self._name, error)
            self._workers.refuse(str(error))
        return str(error)

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._load_error = self._load_error or error
            self._changed.notify_all()

    def _set_alive(self, worker: WorkerProcess, *, is_alive: bool) -> None:
        with self._changed:
            if is_alive:
                self._alive.add(worker)
                if self._is_closed:
                    worker.disconnect()
            else:
                self._alive.discard(worker)


class WorkerLoader:
    """Loads a version in worker processes; see `servable.lifecycle.Loader` for the contract."""

    def __init__(
        self,
        name: str,
        make_loader: Callable[[], Loader],
        estimate_resources: Callable[[], int],
        *,
        processes: int = 1,
        slots: int = 1,
    ) -> None:
        """Describe the load; nothing is started yet.

        Args:
            name: The servable id, for messages.
            make_loader: Makes the loader of the version, in a worker; pickled.
            estimate_resources: The estimate of the version in one process.
            processes: The number of workers.
            slots: How many requests each of them runs at once.
        """
        self._name = name
        self._make_loader = make_loader
        self._estimate_resources = estimate_resources
        self._processes = processes
        self._slots = slots
        self._pool: WorkerPool | None = None

    def estimate_resources(self) -> int:
        """The estimate of the version, once per process."""
        return self._estimate_resources() * self._processes

    def load(self) -> None:
        """Load the version in each worker.

        Raises:
            LoadError: It cannot be loaded, or a worker died.
        """
        self._pool = WorkerPool(
            self._name, self._make_loader, processes=self._processes, slots=self._slots
        )

    def unload(self) -> None:
        """End the workers."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop_replacing()
            pool.servable.unload()
            pool.close()

    @property
    def servable(self) -> Servable:
        """The loaded version."""
        if self._pool is None:
            raise FailedPreconditionError(f"{self._name} is not loaded")
        return self._pool.servable


class TrialLoader:
    """Loads a version in a process that then ends, and here after that; see `servable.lifecycle.Loader`."""

    def __init__(self, name: str, loader: Loader, make_loader: Callable[[], Loader]) -> None:
        """Describe the load; nothing is started yet.

        Args:
            name: The servable id, shown in lists of processes.
            loader: Loads the version here.
            make_loader: Makes the loader of the version, in the other process; pickled.
        """
        self._name = name
        self._loader = loader
        self._make_loader = make_loader

    def estimate_resources(self) -> int:
        """The estimate of the version; the trial ends before the load."""
        return self._loader.estimate_resources()

    def load(self) -> None:
        """Try the load, then load.

        Raises:
            ServableError: The trial or the load failed.
        """
        try_load(self._name, self._make_loader)
        self._loader.load()

    def unload(self) -> None:
        """Unload the version."""
        self._loader.unload()

    @property
    def servable(self) -> LoadedServable:
        """The loaded version."""
        return self._loader.servable
