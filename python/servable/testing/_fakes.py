"""Fakes of slow or non-deterministic parts: loaders, servables, clocks, workers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from servable.errors import BackendError, ServableError
from servable.lifecycle._source import AspiredVersion
from servable.lifecycle._states import ServableEvent

T = TypeVar("T")


class FakeClock:
    """A clock that tests advance, with pauses that take no time.

    `wait` has the signature that sources and harnesses expect. It advances the clock and records the requested pause.
    """

    def __init__(self, now: float = 0.0) -> None:
        """Start at a given time, in seconds."""
        self.now = now
        self.waits: list[float] = []
        self.on_wait: Callable[[float], None] = lambda seconds: None

    def __call__(self) -> float:
        """The time, in seconds."""
        return self.now

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Advance the clock and return at once; with the event set, do not advance."""
        self.waits.append(seconds)
        self.on_wait(seconds)
        if not event.is_set():
            self.now += seconds
        return event.is_set()


class FakeServable:
    """A servable that is idle unless it is held."""

    def __init__(self, name: str = "") -> None:
        """Set a name, shown in test failures."""
        self.name = name
        self._idle = threading.Event()
        self._idle.set()

    def hold(self) -> None:
        """Begin a request that lasts until `release`."""
        self._idle.clear()

    def release(self) -> None:
        """End a request."""
        self._idle.set()

    def wait_until_idle(self, timeout_seconds: float | None = None) -> bool:
        """Wait for `release` if the servable is held."""
        return self._idle.wait(timeout_seconds)


class FakeLoader:
    """A loader with programmable behaviour, which counts its calls.

    Attributes:
        loads: The number of attempts to load.
        unloads: The number of unloads.
        is_loaded: Whether it is loaded now.
    """

    def __init__(
        self,
        failures: Iterable[Exception] = (),
        *,
        always_fails: ServableError | None = None,
        estimate: int | ServableError = 0,
        on_load: Callable[[], None] = lambda: None,
    ) -> None:
        """Program the behaviour.

        Args:
            failures: The exceptions of the first attempts, in order; later attempts succeed.
            always_fails: The exception of every attempt.
            estimate: The result or exception of `estimate_resources`.
            on_load: Called during each attempt, before it succeeds or fails.
        """
        self._failures = list(failures)
        self._always_fails = always_fails
        self._estimate = estimate
        self._on_load = on_load
        self._servable: FakeServable | None = None
        self.loads = 0
        self.unloads = 0

    @property
    def is_loaded(self) -> bool:
        """Whether it is loaded now."""
        return self._servable is not None

    @property
    def servable(self) -> FakeServable:
        """The loaded servable."""
        if self._servable is None:
            raise BackendError("a loader was asked for its servable while it was not loaded")
        return self._servable

    def estimate_resources(self) -> int:
        """The programmed estimate."""
        if isinstance(self._estimate, ServableError):
            raise self._estimate
        return self._estimate

    def load(self) -> None:
        """Fail or succeed, as programmed."""
        self.loads += 1
        if self._servable is not None:
            raise AssertionError("loaded twice")
        self._on_load()
        if self._always_fails is not None:
            raise self._always_fails
        if self._failures:
            raise self._failures.pop(0)
        self._servable = FakeServable()

    def unload(self) -> None:
        """Drop the servable."""
        self.unloads += 1
        if self._servable is None:
            raise AssertionError("unloaded without a load")
        self._servable = None


class FakeWorkers:
    """Workers whose tasks run on the test's thread, on request."""

    def __init__(self) -> None:
        """Start without tasks."""
        self.tasks: list[tuple[str, Callable[[], None]]] = []

    def submit(self, name: str, task: Callable[[], None]) -> None:
        """Store a task for later."""
        self.tasks.append((name, task))

    def run(self, index: int = 0) -> str:
        """Run one of the tasks to its end.

        Returns:
            The task's name.
        """
        name, task = self.tasks.pop(index)
        task()
        return name

    def waiting(self) -> contextlib.AbstractContextManager[None]:
        """Do nothing: there is no other thread to make room for."""
        return contextlib.nullcontext()

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Run all tasks, including those that they submit."""
        del timeout_seconds
        while self.tasks:
            self.run()
        return True


class RecordingTarget(Generic[T]):
    """A target that stores every list.

    Attributes:
        calls: Name and list of each call, in order.
    """

    def __init__(self) -> None:
        """Start without calls."""
        self.calls: list[tuple[str, list[AspiredVersion[T]]]] = []

    def set_aspired_versions(self, name: str, versions: Sequence[AspiredVersion[T]]) -> None:
        """Store the list."""
        self.calls.append((name, list(versions)))

    def last(self, name: str) -> list[AspiredVersion[T]]:
        """The newest list of a stream."""
        return next(versions for called, versions in reversed(self.calls) if called == name)


class RecordingPublisher:
    """A publisher that stores events and tracks the reachable versions.

    Attributes:
        events: Every event, in order.
        reachable: The servables by name and version.
    """

    def __init__(self) -> None:
        """Start without events."""
        self.events: list[ServableEvent] = []
        self.reachable: dict[tuple[str, int], object] = {}

    def __call__(self, event: ServableEvent) -> None:
        """Store the event and update the reachable versions."""
        self.events.append(event)
        key = (event.id.name, event.id.version)
        if event.servable is None:
            self.reachable.pop(key, None)
        else:
            self.reachable[key] = event.servable
