"""Publication and recording of state changes (docs/spec/lifecycle.md §7)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from servable.errors import ServableError
from servable.lifecycle._ids import ServableId
from servable.lifecycle._states import ServableEvent, ServableState


class EventBus:
    """Delivers every event to every subscriber, one event at a time.

    Delivery happens on the publisher's thread, so a subscriber must be quick. It must neither publish nor subscribe
    from its callback.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: dict[object, Callable[[ServableEvent], None]] = {}

    def subscribe(self, subscriber: Callable[[ServableEvent], None]) -> Callable[[], None]:
        """Deliver future events to a subscriber.

        Returns:
            A function that ends the subscription.
        """
        key = object()
        with self._lock:
            self._subscribers[key] = subscriber

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers.pop(key, None)

        return unsubscribe

    def publish(self, event: ServableEvent) -> None:
        """Deliver one event to all subscribers."""
        with self._lock:
            for subscriber in self._subscribers.values():
                subscriber(event)


@dataclass(frozen=True, slots=True)
class RecordedState:
    """The last known state of a version.

    Attributes:
        state: The state it has reached.
        error: Why the version ended with an error, or why the last attempt to load it failed.
        time_seconds: The time of the event, on the monitor's clock.
    """

    state: ServableState
    error: ServableError | None
    time_seconds: float


class StateMonitor:
    """Records the last state of each version, ended ones included, until the process ends.

    Safe to use from several threads.
    """

    def __init__(self, bus: EventBus, clock: Callable[[], float] = time.time) -> None:
        """Record all future events of the bus."""
        self._clock = clock
        self._changed = threading.Condition()
        self._states: dict[str, dict[int, RecordedState]] = {}
        self.close = bus.subscribe(self._record)

    def state(self, servable_id: ServableId) -> RecordedState | None:
        """The last state of one version; `None` if no event has named it."""
        with self._changed:
            return self._states.get(servable_id.name, {}).get(servable_id.version)

    def states(self, name: str) -> Mapping[int, RecordedState]:
        """The last state of each version of a stream, highest version first."""
        with self._changed:
            known = self._states.get(name, {})
            return MappingProxyType(dict(sorted(known.items(), reverse=True)))

    def live_states(self, name: str) -> Mapping[int, RecordedState]:
        """Like `states`, without the versions that have ended."""
        live = {v: s for v, s in self.states(name).items() if s.state is not ServableState.END}
        return MappingProxyType(live)

    def wait_for(self, condition: Callable[[], bool], timeout_seconds: float | None = None) -> bool:
        """Wait until a condition is true; it is checked after every event.

        Args:
            condition: Called on the waiting thread; may call the monitor.
            timeout_seconds: How long to wait at most; `None` waits without limit.

        Returns:
            Whether it is true.
        """
        with self._changed:
            return self._changed.wait_for(condition, timeout_seconds)

    def _record(self, event: ServableEvent) -> None:
        with self._changed:
            versions = self._states.setdefault(event.id.name, {})
            versions[event.id.version] = RecordedState(event.state, event.error, self._clock())
            self._changed.notify_all()
