"""The manager: makes the loaded versions follow the aspired ones (docs/spec/lifecycle.md §8 to §12).

One thread makes the decisions and does nothing else. It takes the newest aspired lists, asks the policy, and hands
loads and unloads to worker threads. A new list or a finished worker wakes it up; it uses no timer.

Loads and unloads run on worker threads. A worker that only waits gives its slot to another, so a slow or broken version
of one stream delays no other stream. A limit applies to the number of concurrent loads.

Publication follows two rules. A version is announced AVAILABLE after the publisher has made it reachable. The step that
makes it unreachable is the step that announces UNLOADING.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import TypeAlias

from servable.errors import BackendError, OverloadedError, ServableError
from servable.lifecycle._harness import LoaderHarness, RetryPolicy, Wait
from servable.lifecycle._ids import ServableId
from servable.lifecycle._loader import Loader
from servable.lifecycle._monitor import EventBus
from servable.lifecycle._policy import (
    Action,
    ActionKind,
    AspiredVersionPolicy,
    VersionSnapshot,
    availability_preserving_policy,
)
from servable.lifecycle._resources import ResourceTracker
from servable.lifecycle._slots import Slots
from servable.lifecycle._source import AspiredVersion
from servable.lifecycle._states import HarnessState, ServableEvent, ServableState, status_text
from servable.lifecycle._workers import Workers, WorkerThreads

_log = logging.getLogger(__name__)

Publisher: TypeAlias = Callable[[ServableEvent], None]
"""Puts a state into effect for requests, before it is announced on the event bus.

With AVAILABLE it starts to route requests to `event.servable`. With every other state it routes no request to that
version once it has returned. Called from several threads, in order for each version.
"""

_IN_TRANSIT_WITH_RESOURCES = frozenset(
    {
        HarnessState.LOAD_APPROVED,
        HarnessState.LOADING,
        HarnessState.UNLOAD_REQUESTED,
        HarnessState.QUIESCING,
        HarnessState.QUIESCED,
        HarnessState.UNLOADING,
    }
)


_LONG_LOAD_SECONDS = 60.0
"""A load that has run for this long no longer occupies a slot, because it may hang."""


class AspiredVersionsManager:
    """A target of aspired versions that loads and unloads them.

    `start` makes the decisions on a thread; without it, each call of `step` makes them.
    """

    def __init__(
        self,
        publisher: Publisher,
        bus: EventBus,
        *,
        policy: AspiredVersionPolicy = availability_preserving_policy,
        retry: RetryPolicy | None = None,
        resources: ResourceTracker | None = None,
        load_slots: int = 4,
        unload_slots: int = 4,
        workers: Workers | None = None,
        wait: Wait = threading.Event.wait,
    ) -> None:
        """Make a manager without versions.

        Args:
            publisher: Puts states into effect for requests.
            bus: Where states are announced.
            policy: Chooses the next step of a stream.
            retry: How often a failed load is repeated.
            resources: Where loads reserve memory; unlimited if not given.
            load_slots: How many loads may run concurrently. Loads older than a minute do not count.
            unload_slots: How many unloads may run concurrently.
            workers: Where loads and unloads run; by default a pool of threads for each.
            wait: How to pause between attempts to load.
        """
        self._publisher = publisher
        self._bus = bus
        self._policy = policy
        self._retry = retry or RetryPolicy()
        self._resources = resources or ResourceTracker()
        self._load_slots = Slots(load_slots, patience_seconds=_LONG_LOAD_SECONDS)
        self._unload_slots = Slots(unload_slots)
        # A separate pool: an unload must never wait for loads, because they may wait for its memory.
        self._load_workers = workers or WorkerThreads()
        self._unload_workers = workers or WorkerThreads()
        self._wait = wait
        # Guards the input from other threads; everything else belongs to the deciding thread.
        self._changed = threading.Condition()
        self._arrived: dict[str, dict[int, AspiredVersion[Loader]]] = {}
        self._content: dict[str, dict[int, tuple[Hashable, object, bool]]] = {}
        self._woken: set[str] = set()
        self._retried: set[ServableId] = set()
        self._is_stopping = False
        self._aspired: dict[str, dict[int, AspiredVersion[Loader]]] = {}
        self._streams: dict[str, dict[int, LoaderHarness]] = {}
        self._thread: threading.Thread | None = None

    def limit_loads(self, slots: int) -> None:
        """Change how many loads may run concurrently; running loads continue."""
        self._load_slots.set_limit(slots)

    def start(self) -> None:
        """Start the deciding thread."""
        self._thread = threading.Thread(target=self._run, name="aspired-versions", daemon=True)
        self._thread.start()

    def stop(self, timeout_seconds: float | None = None) -> bool:
        """Unload everything and end; later aspired lists are ignored.

        Args:
            timeout_seconds: How long to wait for running loads and unloads.

        Returns:
            Whether everything is unloaded.
        """
        _log.info("Unload all remaining servables in the manager.")
        with self._changed:
            self._is_stopping = True
            self._arrived = {name: {} for name in (*self._aspired, *self._arrived)}
            self._woken.update(self._arrived)
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout_seconds)
            return not self._thread.is_alive()
        return not self._streams

    def set_aspired_versions(self, name: str, versions: Sequence[AspiredVersion[Loader]]) -> None:
        """Replace the aspired versions of one stream; see `Target`."""
        wanted: dict[int, AspiredVersion[Loader]] = {}
        for version in versions:
            if version.id.name != name:
                raise ValueError(f"{version.id} is in a list of versions of {name}")
            if version.id.version in wanted:
                _log.error("%s is aspired twice; the first one counts", version.id)
            wanted.setdefault(version.id.version, version)
        content = {
            number: (
                version.fingerprint,
                version.configuration,
                isinstance(version.item, ServableError),
            )
            for number, version in wanted.items()
        }
        with self._changed:
            # Sources repeat the same list at every poll, for every stream.
            if self._is_stopping or self._content.get(name) == content:
                return
            if content:
                self._content[name] = content
            else:
                self._content.pop(name, None)
            self._arrived[name] = wanted
            self._woken.add(name)
            self._changed.notify()

    def retry(self, servable_id: ServableId) -> None:
        """Load a failed version once more, or at once if its next attempt is due later.

        Does nothing for a version that is not aspired, or that serves.
        """
        with self._changed:
            harness = self._streams.get(servable_id.name, {}).get(servable_id.version)
            if harness is not None:
                harness.forget_failure()
                self._retried.add(servable_id)
                self._woken.add(servable_id.name)
                self._changed.notify()

    def last_failure(self, servable_id: ServableId) -> ServableError | None:
        """Why the last attempt to load a version failed, while further attempts are due."""
        harness = self._streams.get(servable_id.name, {}).get(servable_id.version)
        return None if harness is None else harness.last_failure

    def step(self) -> None:
        """Act on all input so far; loads and unloads that it starts run on workers.

        Only for one thread at a time, and not together with `start`.
        """
        with self._changed:
            self._aspired.update(self._arrived)
            self._arrived.clear()
            names, self._woken = self._woken, set()
            retried, self._retried = self._retried, set()
        for name in sorted(names):
            self._reconcile(name, retried)
        while names:
            actions = [(name, action) for name in sorted(names) if (action := self._decide(name))]
            # Unloads of all streams first: they free memory for loads.
            actions.sort(key=lambda pair: pair[1].kind is ActionKind.LOAD)
            for name, action in actions:
                self._execute(self._streams[name][action.id.version], action)
            names = {name for name, _ in actions}

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._woken or self._has_ended)
                if self._has_ended and not self._woken:
                    return
            self.step()

    @property
    def _has_ended(self) -> bool:
        return self._is_stopping and not self._streams

    def _wake(self, name: str) -> None:
        with self._changed:
            self._woken.add(name)
            # The deciding thread may be waiting, and so may loads that need other versions' memory.
            self._changed.notify_all()

    def _reconcile(self, name: str, retried: Collection[ServableId]) -> None:
        """Make the harnesses of a stream follow its newest aspired list."""
        wanted = self._aspired.get(name, {})
        harnesses = self._streams.setdefault(name, {})
        for number, harness in list(harnesses.items()):
            version = wanted.get(number)
            if version is None:
                if harness.is_aspired:
                    harness.is_aspired = False
                    harness.cancel_load()
            elif harness.state is HarnessState.READY:
                # It was kept because no other version could replace it, and is aspired again.
                harness.is_aspired = True
            elif harness.is_aspired:
                harness.reconfigure(version.item, version.configuration)
                if version.fingerprint != harness.fingerprint or harness.id in retried:
                    # The failed attempt, or a running one, may have read a half-written directory.
                    if harness.state is HarnessState.ERROR:
                        harness.is_aspired = False
                    elif harness.state is HarnessState.LOADING:
                        harness.hasten_retry(version.fingerprint)
            if not harness.is_aspired and harness.state is HarnessState.NEW:
                # Dropped before its load began: publish its end, or its status would stay START.
                self._announce(harness.id, ServableState.END)
                del harnesses[number]
            elif not harness.is_aspired and harness.state.is_final:
                del harnesses[number]
        for number in wanted.keys() - harnesses.keys():
            harnesses[number] = self._manage(wanted[number])
        if not harnesses:
            del self._streams[name]
            if not wanted:
                self._aspired.pop(name, None)

    def _manage(self, version: AspiredVersion[Loader]) -> LoaderHarness:
        harness = LoaderHarness(
            version.id,
            version.item,
            fingerprint=version.fingerprint,
            configuration=version.configuration,
            retry=self._retry,
            wait=self._pause,
        )
        if harness.error is None:
            self._announce(harness.id, ServableState.START)
        else:
            self._announce(harness.id, ServableState.END, harness.error)
        return harness

    def _decide(self, name: str) -> Action | None:
        # Decide by the aspired list, not by the harness. A version that is aspired again while it unloads counts as
        # aspired; otherwise the version that serves in its place would be unloaded.
        wanted = self._aspired.get(name, {})
        return self._policy(
            [
                VersionSnapshot(harness.id, harness.state, number in wanted)
                for number, harness in self._streams.get(name, {}).items()
            ]
        )

    def _execute(self, harness: LoaderHarness, action: Action) -> None:
        task: Callable[[LoaderHarness], None]
        if action.kind is ActionKind.LOAD:
            harness.request_load()
            task, workers = self._load, self._load_workers
        else:
            harness.request_unload()
            task, workers = self._unload, self._unload_workers

        def run() -> None:
            try:
                task(harness)
            # A bug, or a loader that calls `sys.exit`, must not leave the version in an intermediate state.
            except BaseException as error:
                _log.exception("Unexpected error in the %s of %s", action.kind.value, harness.id)
                failure = BackendError(f"{type(error).__name__}: {error}")
                harness.fail(failure)
                self._release(harness)
                self._announce(harness.id, ServableState.END, failure)
            finally:
                self._wake(harness.id.name)

        workers.submit(f"{action.kind.value} {harness.id.name}/{harness.id.version}", run)

    def _load(self, harness: LoaderHarness) -> None:
        def make_available() -> None:
            self._announce(harness.id, ServableState.AVAILABLE, servable=harness.servable)

        def report_failure(failure: ServableError) -> None:
            self._announce(harness.id, ServableState.LOADING, failure)

        try:
            self._reserve(harness)
            harness.approve_load()
            self._announce(harness.id, ServableState.LOADING)
            harness.load(make_available, self._load_slots, report_failure)
        except ServableError as error:
            self._release(harness)
            self._announce(harness.id, ServableState.END, error)

    def _reserve(self, harness: LoaderHarness) -> None:
        try:
            # An estimate walks the directory, which is only worth it where there is a limit.
            limited = self._resources.limit_bytes is not None
            estimate = harness.loader.estimate_resources() if limited else 0
        except ServableError as error:
            text = f"Error while attempting to reserve resources to load servable {harness.id}"
            refused = ServableError(f"{text}: {error.message}", code=error.code)
            harness.fail(refused)
            raise refused from error
        with self._changed:
            while not self._resources.reserve(harness.id, estimate):
                if not self._memory_may_become_free():
                    refused = OverloadedError(
                        f"Insufficient resources to load servable {harness.id}"
                    )
                    harness.fail(refused)
                    raise refused
                with self._load_workers.waiting():
                    self._changed.wait()
        _log.info("Successfully reserved resources to load servable %s", harness.id)

    def _pause(self, wake: threading.Event, seconds: float) -> None:
        """Wait between attempts to load."""
        with self._load_workers.waiting():
            self._wait(wake, seconds)

    def _memory_may_become_free(self) -> bool:
        streams = list(self._streams.values())
        return any(
            harness.state in _IN_TRANSIT_WITH_RESOURCES
            for harnesses in streams
            for harness in list(harnesses.values())
        )

    def _release(self, harness: LoaderHarness) -> None:
        with self._changed:
            self._resources.release(harness.id)

    def _unload(self, harness: LoaderHarness) -> None:
        servable = harness.servable
        harness.start_quiescing()
        self._announce(harness.id, ServableState.UNLOADING)
        with self._unload_workers.waiting():
            servable.wait_until_idle()
        harness.done_quiescing()
        del servable
        failure: ServableError | None = None
        with self._unload_slots:
            try:
                harness.unload()
            except ServableError as error:
                _log.error("Unloading %s failed: %s", harness.id, status_text(error))
                failure = error
        self._release(harness)
        self._announce(harness.id, ServableState.END, failure)

    def _announce(
        self,
        servable_id: ServableId,
        state: ServableState,
        error: ServableError | None = None,
        servable: object = None,
    ) -> None:
        if error is not None:
            # Errors live as long as the process. Their tracebacks and causes must not keep a half-loaded model alive.
            error.__traceback__ = error.__cause__ = error.__context__ = None
        self._publisher(ServableEvent(servable_id, state, error, servable))
        self._bus.publish(ServableEvent(servable_id, state, error))
