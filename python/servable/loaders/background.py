"""Work that must not take the CPU from requests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from servable.gateway import yield_to_requests

T = TypeVar("T")


def run_in_background(name: str, task: Callable[[], T]) -> T:
    """Run a task at low CPU priority, and wait for it.

    It gets a thread of its own, since an unprivileged process cannot raise a priority again.
    Threads that the task starts inherit the priority: what it must not slow down has to exist
    before. Only Linux has priorities of threads.

    Args:
        name: What the task does, for people who look at threads.
        task: What to run.

    Returns:
        What the task returns; what it raises is raised.
    """
    future: Future[T] = Future()

    def run() -> None:
        yield_to_requests()
        try:
            future.set_result(task())
        except BaseException as raised:  # for the caller, whatever it is
            future.set_exception(raised)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join()
    return future.result()
