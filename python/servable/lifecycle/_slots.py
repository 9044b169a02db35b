"""A limit on concurrent work."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable


class Slots:
    """A resizable semaphore, which also frees the slots of threads that hang. Safe to use from any thread."""

    def __init__(
        self,
        limit: int,
        *,
        patience_seconds: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a semaphore.

        Args:
            limit: How many threads may hold a slot.
            patience_seconds: A thread that has held its slot for this long no longer counts, so that work that hangs
                does not block the rest.
            clock: Measures `patience_seconds`.
        """
        self._limit = limit
        self._patience_seconds = patience_seconds
        self._clock = clock
        # When the slot of each thread inside expires.
        self._inside: dict[int, float] = {}
        self._changed = threading.Condition()

    def set_limit(self, limit: int) -> None:
        """Change the limit; threads that hold a slot keep it."""
        with self._changed:
            self._limit = limit
            self._changed.notify_all()

    def __enter__(self) -> None:
        """Wait for a slot and take it."""
        with self._changed:
            while (seconds := self._seconds_to_wait()) > 0:
                self._changed.wait(None if seconds == math.inf else seconds)
            self._inside[threading.get_ident()] = self._clock() + self._patience_seconds

    def __exit__(self, *raised: object) -> None:
        """Release the slot."""
        with self._changed:
            del self._inside[threading.get_ident()]
            self._changed.notify()

    def _seconds_to_wait(self) -> float:
        now = self._clock()
        counted = sorted(until for until in self._inside.values() if until > now)
        surplus = len(counted) - self._limit
        return counted[surplus] - now if surplus >= 0 else 0.0
