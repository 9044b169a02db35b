"""A manager that loads what is asked for, when it is asked for, and evicts what is not.

For many servables of which few are used at a time. It stands alone: whoever wants a servable asks
for a handle, and the version stays loaded for as long as the handle is held.

It differs from the manager of the same name in TensorFlow Serving where that is a trap: a failed
load is tried again at a later request, and what has not been used for longest makes room.
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
    """Knows what could be loaded. Called from any thread that asks for a handle."""

    def latest_version(self, name: str) -> int:
        """The version that a request without a number means; asked at each of them.

        Raises:
            ServableError: There is no such stream; whoever asked for the handle gets this.
        """

    def make_loader(self, servable_id: ServableId) -> Loader:
        """A new loader for one version; should only describe the work, since others wait for it.

        Raises:
            ServableError: There is no such version; whoever asked for the handle gets this.
        """


class CachingManager(Generic[T]):
    """Loads on the first request for a version, on the thread that asks.

    Others that ask for the same version meanwhile wait for that one load and share its outcome;
    those that ask for other versions go their own way. Safe to use from several threads.
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
            factory: Knows what could be loaded.
            memory_limit_bytes: The most that the estimates of all loaded versions may come to;
                `None` for no limit, and then nothing is evicted.
            retry: How often a failed load is repeated while the callers wait; not at all if not
                given.
            failure_seconds: For how long a failed load is answered with the same error before the
                next request tries again, so that a broken version is not loaded all the time.
            bus: Where states are announced.
            clock: What that time is measured on.
        """
        self._factory = factory
        self._retry = retry or RetryPolicy(0, 0)
        self._failure_seconds = failure_seconds
        self._bus = bus or EventBus()
        self._clock = clock
        self._changed = threading.Condition()
        self._resources = ResourceTracker(memory_limit_bytes)
        # The least recently used first.
        self._entries: OrderedDict[ServableId, _Entry] = OrderedDict()
        self._failures: dict[ServableId, tuple[float, ServableError]] = {}
        self._is_closed = False

    @contextlib.contextmanager
    def handle(self, name: str, version: int | None = None) -> Iterator[Handle[T]]:
        """Hold a version, which is loaded if it is not: it stays loaded until the block ends.

        Args:
            name: The stream.
            version: Which version; the factory's latest if not given.

        Raises:
            OverloadedError: It does not fit beside what is held at this moment. Nobody waits for
                handles, since those who wait might hold them.
            UnavailableError: The manager is closed.
            ServableError: The factory knows no such version, or it could not be loaded.
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
        """What is loaded, the least recently used first."""
        with self._changed:
            return [servable_id for servable_id, entry in self._entries.items() if entry.is_ready]

    def evict(self, servable_id: ServableId) -> bool:
        """Unload a version now; the next request for it loads it anew.

        Returns:
            Whether it was loaded and nobody held it.
        """
        with self._changed:
            entry = self._entries.get(servable_id)
            if entry is None or not entry.is_evictable:
                return False
            entry.is_ready = False
        self._unload(entry)
        return True

    def close(self, timeout_seconds: float | None = None) -> bool:
        """Refuse new handles and unload everything, each version when it is no longer held.

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
                    # Waiting counts as holding, or the version might be evicted before we wake up.
                    entry.pins += 1
                    self._entries.move_to_end(servable_id)
                    while entry.is_loading:
                        self._changed.wait()
                    if entry.error is not None:
                        raise _again(entry.error)
                    return entry
                self._changed.wait()  # for the end of its unloading
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
        """Reserve the memory of a version, after the eviction of others if need be."""
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
        # Nothing is evicted in vain.
        fits = self._resources.reserved_bytes - gain + estimate <= limit
        return evictable[0] if fits and evictable else None

    def _memory_may_become_free(self) -> bool:
        """Whether a load or an unload is under way, whose end changes what fits."""
        return any(entry.is_reserved and not entry.is_ready for entry in self._entries.values())

    def _unload(self, entry: _Entry) -> None:
        """Unload what has been marked as not ready, so that nobody else takes it up."""
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
    """Loads everything when it is made, and keeps it until it is closed."""

    def __init__(
        self, loaders: Mapping[ServableId, Loader], *, bus: EventBus | None = None
    ) -> None:
        """Load one version after the other.

        Args:
            loaders: A loader for each version.
            bus: Where states are announced.

        Raises:
            ServableError: A version could not be loaded; those before it are unloaded again.
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
        """Hold a version; the highest one if none is given.

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
    """The same error for another caller: without the first one's traceback, which holds memory."""
    copy = type(error)(error.message, code=error.code)
    copy.__cause__ = copy.__context__ = None
    return copy
