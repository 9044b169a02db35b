"""Threads for work that may take minutes."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

_log = logging.getLogger(__name__)

_PAUSE_SECONDS = 1.0
"""Between two attempts to start a thread."""


class Workers(Protocol):
    """Runs tasks somewhere else."""

    def submit(self, name: str, task: Callable[[], None]) -> None:
        """Run a task soon, without waiting for it.

        Args:
            name: What the task does, for people who look at threads.
            task: What to run; it handles its own errors.
        """

    def waiting(self) -> contextlib.AbstractContextManager[None]:
        """What a task enters while it only waits: others work in its place."""

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Wait for every task that was submitted.

        Returns:
            Whether all of them are done.
        """


class WorkerThreads:
    """Threads that are made when there is work, and end when there has been none for a while.

    However many tasks there are, only some of them work at a time: a thousand models do not take a
    thousand threads. One that waits for a retry, for memory or for the end of requests says so, and
    counts no longer, so it keeps nobody from working, and least of all what it waits for.
    """

    def __init__(self, limit: int = 64, *, idle_seconds: float = 5.0) -> None:
        """Start without threads.

        Args:
            limit: How many tasks may work at a time. It is generous, since a task may hang: what
                really is to be limited has slots of its own.
            idle_seconds: How long a thread stays when there is nothing to do.
        """
        self._limit = limit
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._is_called = threading.Condition(self._lock)
        self._has_ended = threading.Condition(self._lock)
        self._tasks: deque[tuple[str, Callable[[], None]]] = deque()
        self._unfinished = 0
        self._working = 0
        # Threads: all of them; those that are parked; those that are called and have not come yet.
        self._threads = 0
        self._parked = 0
        self._called = 0
        self._coming = 0

    def submit(self, name: str, task: Callable[[], None]) -> None:
        """Run the task on a thread, in its turn.

        Blocks only while there is no thread at all and the system grants none.
        """
        with self._lock:
            self._tasks.append((name, task))
            self._unfinished += 1
            missing = self._call_threads()
        if self._start(missing):
            return
        _log.error("Waiting to %s: the system grants no thread", name)
        while not self._start(missing):
            time.sleep(_PAUSE_SECONDS)
            with self._lock:
                missing = self._call_threads()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Let another task work meanwhile, on a thread more."""
        with self._lock:
            self._working -= 1
            missing = self._call_threads()
        self._start(missing)
        try:
            yield
        finally:
            with self._lock:
                self._working += 1

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Wait until there is nothing to do."""
        with self._lock:
            return self._has_ended.wait_for(lambda: not self._unfinished, timeout_seconds)

    def _call_threads(self) -> int:
        """Call a thread for each task that may work.

        Returns:
            How many have to be started, since none is parked.
        """
        places = min(len(self._tasks), self._limit - self._working) - self._coming
        if places <= 0:
            return 0
        woken = min(places, self._parked - self._called)
        self._called += woken
        self._coming += places
        self._threads += places - woken
        self._is_called.notify(woken)
        return places - woken

    def _start(self, threads: int) -> bool:
        """Start threads, without the lock, since that takes its time.

        Returns:
            Whether there is any thread at all.
        """
        for started in range(threads):
            # Daemon: a load that hangs inside a framework must not keep the process from ending.
            thread = threading.Thread(target=self._work, name="worker", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The system grants no more of them; those that there are do the work.
                with self._lock:
                    self._coming -= threads - started
                    self._threads -= threads - started
                    return self._threads > 0
        return True

    def _work(self) -> None:
        with self._lock:
            while True:
                self._coming -= 1
                while self._tasks and self._working < self._limit:
                    self._run(*self._tasks.popleft())
                self._parked += 1
                is_called = self._is_called.wait_for(lambda: self._called, self._idle_seconds)
                self._parked -= 1
                if not is_called:
                    self._threads -= 1
                    return
                self._called -= 1

    def _run(self, name: str, task: Callable[[], None]) -> None:
        self._working += 1
        self._lock.release()
        try:
            threading.current_thread().name = name
            task()
        # A bug in one task is not the end of the others. Neither is `sys.exit`, with which the
        # thread would end uncounted.
        except BaseException:
            _log.exception("Unexpected error in %s", name)
        finally:
            self._lock.acquire()
            self._working -= 1
            self._unfinished -= 1
            if not self._unfinished:
                self._has_ended.notify_all()
