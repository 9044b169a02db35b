"""Logs loads that take long, while they run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from servable.lifecycle._ids import ServableId
from servable.lifecycle._monitor import EventBus
from servable.lifecycle._states import ServableEvent, ServableState

__all__ = ["FIRST_SECONDS", "SlowLoads"]

_log = logging.getLogger(__name__)

FIRST_SECONDS = 2.0
"""The load time before the first log line, in seconds; the interval doubles with each line."""


class SlowLoads:
    """Watches loads on a separate thread, which sleeps while nothing is loaded."""

    def __init__(self, bus: EventBus, clock: Callable[[], float] = time.monotonic) -> None:
        """Watch all loads from now on.

        Args:
            bus: Publishes the start and end of loads.
            clock: Measures load times.
        """
        self._clock = clock
        self._changed = threading.Condition()
        self._loading: dict[ServableId, tuple[float, float]] = {}
        self._is_stopping = False
        bus.subscribe(self._note)

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="slow-loads", daemon=True).start()

    def stop(self) -> None:
        """Stop the thread."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()

    def look(self) -> float | None:
        """Log the loads that have taken long.

        Returns:
            When to look again, in seconds from now; `None` while nothing is loaded.
        """
        now = self._clock()
        for servable_id, (since, due) in self._loading.items():
            if now >= due:
                _log.info("Loading %s has taken %.0f s so far", servable_id, now - since)
                self._loading[servable_id] = since, now + (now - since)
        return min((due - now for _, due in self._loading.values()), default=None)

    def _note(self, event: ServableEvent) -> None:
        with self._changed:
            # With an error, the version waits for its next attempt.
            if event.state is ServableState.LOADING and event.error is None:
                now = self._clock()
                self._loading[event.id] = now, now + FIRST_SECONDS
                self._changed.notify()
            else:
                self._loading.pop(event.id, None)

    def _run(self) -> None:
        with self._changed:
            while not self._is_stopping:
                self._changed.wait(self.look())
