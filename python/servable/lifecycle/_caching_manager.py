"""A manager that loads versions on demand and evicts the least recently used.

For many servables of which few are used at a time. It needs no other part of the server: a caller requests a handle,
and the version stays loaded while the handle is held.

It differs from TensorFlow Serving's manager of the same name in two defects of that one. A failed load is retried at a
later request, and eviction follows LRU order.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar, cast

from servable.errors import BackendError, OverloadedError, ServableError, UnavailableError
from servable.lifecycle._handles import Handle, ObjectServable, not_found_error
from servable.lifecycle._harness import LoaderHarness, RetryPolicy
from servable.lifecycle._ids import ServableId
from servable.lifecycle._loader import Loader
from servable.lifecycle._monitor import EventBus
from servable.lifecycle._resources import ResourceTracker
from servable.lifecycle._states import ServableEvent, ServableState, status_text

T = TypeVar("T")

_log = logging.getLogger(__name__)


class LoaderFactory(Protocol):
    """Makes loaders on demand. Called from any thread that requests a handle."""

    def latest_version(self, name: str) -> int:
        """The version that a request without a number means; called once per such request.

        Raises:
            ServableError: The stream does not exist; the caller of `handle` gets this error.
        """

    def make_loader(self, servable_id: ServableId) -> Loader:
        """A new loader for one version. Must be quick: it only describes the work, and other callers wait for it.

        Raises:
            ServableError: The version does not exist; the caller of `handle` gets this error.
        """


class CachingManager(Generic[T]):
    """Loads a version on its first request, on the requesting thread.

    Concurrent requests for the same version wait for that load and share its outcome. Requests for other versions do
    not wait for it. Safe to use from several threads.
    """

    def __init__(
        self,
        factory: LoaderFactory,
        *,
        memory_limit_bytes: int | None = None,
        retry: RetryPolicy | None = None,
        failure_seconds: float = 1.0,
        bus: EventBus | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a manager that has nothing loaded.

        Args:
            factory: Makes the loaders.
            memory_limit_bytes: Limit for the sum of the estimates of all loaded versions. `None` means no limit and no
                eviction.
            retry: How often a failed load is repeated while callers wait; by default never.
            failure_seconds: How long requests get the error of a failed load before the next request tries again. Keeps
                a broken version from being loaded all the time.
            bus: Where states are published.
            clock: Measures `failure_seconds`.
        """
        self._factory = factory
        self._retry = retry or RetryPolicy(0, 0)
        self._failure_seconds = failure_seconds
        self._bus = bus or EventBus()
        self._clock = clock
        self._changed = threading.Condition()
        self._resources = ResourceTracker(memory_limit_bytes)
        # In LRU order, the least recently used first.
        self._entries: OrderedDict[ServableId, _Entry] = OrderedDict()
        self._failures: dict[ServableId, tuple[float, ServableError]] = {}
        self._is_closed = False

    @contextlib.contextmanager
    def handle(self, name: str, version: int | None = None) -> Iterator[Handle[T]]:
        """Hold a version until the block ends; loads it if it is not loaded.

        Args:
            name: The stream.
            version: Which version; the factory's latest if not given.

        Raises:
            OverloadedError: It does not fit beside the versions that are held now. The call does not wait for handles
                to be released, because a waiting caller may hold one: this would be a deadlock.
            UnavailableError: The manager is closed.
            ServableError: The factory has no such version, or the load failed.
        """
        if version is None:
            version = self._factory.latest_version(name)
        entry = self._pin(ServableId(name, version))
        try:
            yield Handle(entry.harness.id, cast(T, _value(entry.harness)))
        finally:
            with self._changed:
                entry.pins -= 1
                self._changed.notify_all()

    def loaded(self) -> list[ServableId]:
        """The loaded versions, the least recently used first."""
        with self._changed:
            return [servable_id for servable_id, entry in self._entries.items() if entry.is_ready]

    def evict(self, servable_id: ServableId) -> bool:
        """Unload a version now; the next request for it loads it again.

        Returns:
            Whether it was loaded and had no handles.
        """
        with self._changed:
            entry = self._entries.get(servable_id)
            if entry is None or not entry.is_evictable:
                return False
            entry.is_ready = False
        self._unload(entry)
        return True

    def close(self, timeout_seconds: float | None = None) -> bool:
        """Refuse new handles and unload each version once its last handle is released.

        Args:
            timeout_seconds: How long to wait for handles and loads; `None` waits without limit.

        Returns:
            Whether everything is unloaded.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        with self._changed:
            self._is_closed = True
        while True:
            remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
            with self._changed:
                if not self._changed.wait_for(self._may_close_one, remaining):
                    return False
                entry = self._take_evictable()
                if entry is None:
                    return True
            self._unload(entry)

    def _may_close_one(self) -> bool:
        return not self._entries or any(entry.is_evictable for entry in self._entries.values())

    def _take_evictable(self) -> _Entry | None:
        for entry in self._entries.values():
            if entry.is_evictable:
                entry.is_ready = False
                return entry
        return None

    def _pin(self, servable_id: ServableId) -> _Entry:
        with self._changed:
            while True:
                if self._is_closed:
                    raise UnavailableError("The caching manager is closed")
                entry = self._entries.get(servable_id)
                if entry is None:
                    self._raise_recent_failure(servable_id)
                    loader = self._factory.make_loader(servable_id)
                    entry = _Entry(LoaderHarness(servable_id, loader, retry=self._retry))
                    self._entries[servable_id] = entry
                    break
                if entry.is_loading or entry.is_ready:
                    # A waiting caller counts as a holder; otherwise the version could be evicted before it wakes up.
                    entry.pins += 1
                    self._entries.move_to_end(servable_id)
                    while entry.is_loading:
                        self._changed.wait()
                    if entry.error is not None:
                        raise _again(entry.error)
                    return entry
                self._changed.wait()  # for the end of the unload
        self._load(entry)
        return entry

    def _raise_recent_failure(self, servable_id: ServableId) -> None:
        until, error = self._failures.get(servable_id, (0.0, None))
        if error is not None:
            if self._clock() < until:
                raise _again(error)
            del self._failures[servable_id]

    def _load(self, entry: _Entry) -> None:
        harness = entry.harness
        failure: ServableError | None = BackendError(f"The load of {harness.id} was interrupted")
        try:
            self._announce(harness.id, ServableState.START)
            harness.request_load()
            self._reserve(entry)
            harness.approve_load()
            self._announce(harness.id, ServableState.LOADING)
            harness.load(lambda: None)
            failure = None
        except ServableError as error:
            failure = error
            raise
        finally:
            with self._changed:
                entry.is_loading = False
                entry.is_ready = failure is None
                if failure is not None:
                    entry.error = _again(failure)
                    self._failures[harness.id] = (
                        self._clock() + self._failure_seconds,
                        entry.error,
                    )
                    self._forget(entry)
                self._changed.notify_all()
            if failure is not None:
                self._announce(harness.id, ServableState.END, entry.error)
            else:
                self._announce(harness.id, ServableState.AVAILABLE)

    def _reserve(self, entry: _Entry) -> None:
        """Reserve memory for a version; evicts others if necessary."""
        limit = self._resources.limit_bytes
        if limit is None:
            return
        harness = entry.harness
        try:
            estimate = harness.loader.estimate_resources()
        except ServableError as error:
            harness.fail(error)
            raise
        while True:
            with self._changed:
                if self._resources.reserve(harness.id, estimate):
                    entry.estimate_bytes = estimate
                    entry.is_reserved = True
                    return
                victim = self._victim_for(estimate, limit)
                if victim is None:
                    if estimate > limit or not self._memory_may_become_free():
                        refused = OverloadedError(
                            f"Insufficient resources to load servable {harness.id}"
                        )
                        harness.fail(refused)
                        raise refused
                    self._changed.wait()
                    continue
                victim.is_ready = False
            self._unload(victim)

    def _victim_for(self, estimate: int, limit: int) -> _Entry | None:
        evictable = [entry for entry in self._entries.values() if entry.is_evictable]
        gain = sum(entry.estimate_bytes for entry in evictable)
        # Evict only if that makes enough room.
        fits = self._resources.reserved_bytes - gain + estimate <= limit
        return evictable[0] if fits and evictable else None

    def _memory_may_become_free(self) -> bool:
        """Whether a load or unload is running; its end changes how much memory is free."""
        return any(entry.is_reserved and not entry.is_ready for entry in self._entries.values())

    def _unload(self, entry: _Entry) -> None:
        """Unload an entry that is already marked as not ready, so that no other thread uses it."""
        harness, failure = entry.harness, None
        servable = harness.servable
        harness.request_unload()
        harness.start_quiescing()
        self._announce(harness.id, ServableState.UNLOADING)
        servable.wait_until_idle()
        harness.done_quiescing()
        del servable
        try:
            harness.unload()
        except ServableError as error:
            _log.error("Unloading %s failed: %s", harness.id, status_text(error))
            failure = _again(error)
        with self._changed:
            self._forget(entry)
            self._changed.notify_all()
        self._announce(harness.id, ServableState.END, failure)

    def _forget(self, entry: _Entry) -> None:
        self._resources.release(entry.harness.id)
        entry.is_reserved = False
        del self._entries[entry.harness.id]

    def _announce(
        self, servable_id: ServableId, state: ServableState, error: ServableError | None = None
    ) -> None:
        self._bus.publish(ServableEvent(servable_id, state, error))


class StaticManager(Generic[T]):
    """Loads all versions at construction and keeps them until it is closed."""

    def __init__(
        self, loaders: Mapping[ServableId, Loader], *, bus: EventBus | None = None
    ) -> None:
        """Load the versions in order.

        Args:
            loaders: A loader for each version.
            bus: Where states are published.

        Raises:
            ServableError: A version could not be loaded; the versions before it are unloaded again.
        """
        self._manager: CachingManager[T] = CachingManager(_FixedLoaders(loaders), bus=bus)
        try:
            for servable_id in loaders:
                with self._manager.handle(servable_id.name, servable_id.version):
                    pass
        except ServableError:
            self._manager.close()
            raise

    def handle(
        self, name: str, version: int | None = None
    ) -> contextlib.AbstractContextManager[Handle[T]]:
        """Hold a version; the highest one by default.

        Raises:
            NotFoundError: There is no such version.
        """
        return self._manager.handle(name, version)

    def close(self, timeout_seconds: float | None = None) -> bool:
        """Unload everything; see `CachingManager.close`."""
        return self._manager.close(timeout_seconds)


class _FixedLoaders:
    def __init__(self, loaders: Mapping[ServableId, Loader]) -> None:
        self._loaders = dict(loaders)

    def latest_version(self, name: str) -> int:
        versions = [i.version for i in self._loaders if i.name == name]
        if not versions:
            raise not_found_error(name, None)
        return max(versions)

    def make_loader(self, servable_id: ServableId) -> Loader:
        if servable_id not in self._loaders:
            raise not_found_error(servable_id.name, servable_id.version)
        return self._loaders[servable_id]


class _Entry:
    """A version that is loading, ready or unloading; guarded by the manager's lock."""

    def __init__(self, harness: LoaderHarness) -> None:
        self.harness = harness
        self.pins = 1
        self.estimate_bytes = 0
        self.is_reserved = False
        self.is_loading = True
        self.is_ready = False
        self.error: ServableError | None = None

    @property
    def is_evictable(self) -> bool:
        return self.is_ready and not self.pins


def _value(harness: LoaderHarness) -> Any:
    servable = harness.servable
    return servable.value if isinstance(servable, ObjectServable) else servable


def _again(error: ServableError) -> ServableError:
    """A copy of the error for another caller, without the first caller's traceback, which keeps memory alive."""
    copy = type(error)(error.message, code=error.code)
    copy.__cause__ = copy.__context__ = None
    return copy
