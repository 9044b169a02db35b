"""How many may work at the same time."""

from __future__ import annotations

import threading


class Slots:
    """Entered by those who want to work; only so many are inside at a time. For any thread."""

    def __init__(self, limit: int) -> None:
        """Let so many in."""
        self._limit = limit
        self._inside = 0
        self._changed = threading.Condition()

    def set_limit(self, limit: int) -> None:
        """Let so many in from now on; those who are inside stay."""
        with self._changed:
            self._limit = limit
            self._changed.notify_all()

    def __enter__(self) -> None:
        """Wait for a place."""
        with self._changed:
            self._changed.wait_for(lambda: self._inside < self._limit)
            self._inside += 1

    def __exit__(self, *raised: object) -> None:
        """Leave it to the next."""
        with self._changed:
            self._inside -= 1
            self._changed.notify()
