"""How many may work at the same time."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable


class Slots:
    """Entered by those who want to work; only so many are inside at a time. For any thread."""

    def __init__(
        self,
        limit: int,
        *,
        patience_seconds: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Let so many in.

        Args:
            limit: How many.
            patience_seconds: Who has been inside for as long counts no longer: what hangs must not
                keep others out for ever.
            clock: What that time is measured on.
        """
        self._limit = limit
        self._patience_seconds = patience_seconds
        self._clock = clock
        # When each thread that is inside will count no longer.
        self._inside: dict[int, float] = {}
        self._changed = threading.Condition()

    def set_limit(self, limit: int) -> None:
        """Let so many in from now on; those who are inside stay."""
        with self._changed:
            self._limit = limit
            self._changed.notify_all()

    def __enter__(self) -> None:
        """Wait for a place."""
        with self._changed:
            while (seconds := self._seconds_to_wait()) > 0:
                self._changed.wait(None if seconds == math.inf else seconds)
            self._inside[threading.get_ident()] = self._clock() + self._patience_seconds

    def __exit__(self, *raised: object) -> None:
        """Leave it to the next."""
        with self._changed:
            del self._inside[threading.get_ident()]
            self._changed.notify()

    def _seconds_to_wait(self) -> float:
        now = self._clock()
        counted = sorted(until for until in self._inside.values() if until > now)
        surplus = len(counted) - self._limit
        return counted[surplus] - now if surplus >= 0 else 0.0
