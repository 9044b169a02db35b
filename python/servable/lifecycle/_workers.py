"""A thread pool for tasks that may take minutes."""

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
"""The pause between two attempts to start a thread."""


class Workers(Protocol):
    """Runs tasks in the background."""

    def submit(self, name: str, task: Callable[[], None]) -> None:
        """Run a task soon, without waiting for it.

        Args:
            name: A description of the task, used as the name of its thread.
            task: What to run; handles its own errors.
        """

    def waiting(self) -> contextlib.AbstractContextManager[None]:
        """A context for a task that only waits: another task may run in its place."""

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Wait for every submitted task.

        Returns:
            Whether all of them are done.
        """


class WorkerThreads:
    """A thread pool that grows on demand; idle threads end after a while.

    The number of concurrent tasks is limited, so a thousand models do not take a thousand threads. A task that waits
    for a retry, for memory or for the end of requests marks itself as waiting and no longer counts. It therefore blocks
    no other task, in particular not the one that it waits for.
    """

    def __init__(self, limit: int = 64, *, idle_seconds: float = 5.0) -> None:
        """Make a pool without threads.

        Args:
            limit: How many tasks may run concurrently. It is generous, since a task may hang; stricter limits use
                slots.
            idle_seconds: How long an idle thread stays.
        """
        self._limit = limit
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._is_called = threading.Condition(self._lock)
        self._has_ended = threading.Condition(self._lock)
        self._tasks: deque[tuple[str, Callable[[], None]]] = deque()
        self._unfinished = 0
        self._working = 0
        # Threads: all of them; the parked ones; those that were woken or started and have not begun yet.
        self._threads = 0
        self._parked = 0
        self._called = 0
        self._coming = 0

    def submit(self, name: str, task: Callable[[], None]) -> None:
        """Run the task on a thread of the pool, in order of submission.

        Blocks only while the pool has no thread and the system refuses to start one.
        """
        with self._lock:
            self._tasks.append((name, task))
            self._unfinished += 1
            missing = self._call_threads()
        if self._start(missing):
            return
        _log.error("Cannot start a thread to %s: the system refuses it; trying again", name)
        while not self._start(missing):
            time.sleep(_PAUSE_SECONDS)
            with self._lock:
                missing = self._call_threads()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark the task as waiting, so that another one may run on a further thread."""
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
        """Wait until there are no tasks."""
        with self._lock:
            return self._has_ended.wait_for(lambda: not self._unfinished, timeout_seconds)

    def _call_threads(self) -> int:
        """Wake a thread for each task that may run.

        Returns:
            How many threads have to be started, since none is parked.
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
        """Start threads, without the lock, because that is slow.

        Returns:
            Whether the pool has any thread.
        """
        for started in range(threads):
            # Daemon: a load that hangs inside a framework must not keep the process alive.
            thread = threading.Thread(target=self._work, name="worker", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The system refuses further threads; the existing ones do the work.
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
        # A bug in one task must not end the thread. Neither may `sys.exit`, which would end it without updating the
        # count.
        except BaseException:
            _log.exception("Unexpected error in %s", name)
        finally:
            self._lock.acquire()
            self._working -= 1
            self._unfinished -= 1
            if not self._unfinished:
                self._has_ended.notify_all()
