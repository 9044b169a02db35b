"""Accounts for the estimated memory of loaded versions (docs/spec/lifecycle.md §13)."""

from __future__ import annotations

from servable.lifecycle._ids import ServableId


class ResourceTracker:
    """Holds reservations of main memory against a limit.

    Not safe to use from several threads; the manager calls it under its lock.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        """Start without reservations.

        Args:
            limit_bytes: The limit for the sum of all reservations; `None` for no limit.
        """
        self.limit_bytes = limit_bytes
        self._reserved: dict[ServableId, int] = {}

    @property
    def reserved_bytes(self) -> int:
        """The sum of all reservations."""
        return sum(self._reserved.values())

    def reserve(self, servable_id: ServableId, estimate_bytes: int) -> bool:
        """Reserve memory for a version.

        Returns:
            Whether it fits; if not, nothing is reserved.
        """
        others = self.reserved_bytes - self._reserved.get(servable_id, 0)
        if self.limit_bytes is not None and others + estimate_bytes > self.limit_bytes:
            return False
        self._reserved[servable_id] = estimate_bytes
        return True

    def release(self, servable_id: ServableId) -> None:
        """Release the reservation of a version, if it has one."""
        self._reserved.pop(servable_id, None)
