"""Serving Python objects without a server: objects as servables, and handles to them.

The server's request path does the same in Rust. This module is for programs that use the lifecycle package alone:
`ServableHandles` is the publisher of their manager, and the place where they get handles.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from servable.errors import FailedPreconditionError, NotFoundError
from servable.lifecycle._ids import ServableId
from servable.lifecycle._states import ServableEvent, ServableState

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class ObjectServable(Generic[T]):
    """Any object as a servable, with a count of its users."""

    def __init__(self, value: T) -> None:
        """Wrap an object."""
        self.value = value
        self._changed = threading.Condition()
        self._holders = 0

    def hold(self) -> None:
        """Begin a use."""
        with self._changed:
            self._holders += 1

    def release(self) -> None:
        """End a use."""
        with self._changed:
            self._holders -= 1
            self._changed.notify_all()

    def wait_until_idle(self, timeout_seconds: float | None = None) -> bool:
        """Wait until the object has no users; see `Servable`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._holders == 0, timeout_seconds)


class ObjectLoader(Generic[T]):
    """Loads by calling a function: the complete loader of most kinds of Python objects."""

    def __init__(
        self, make: Callable[[], T], *, estimate_bytes: int | Callable[[], int] = 0
    ) -> None:
        """Describe the load.

        Args:
            make: Makes the object. If it raises, a retry calls it again.
            estimate_bytes: The most memory that the object needs, or a function that returns it.
        """
        self._make = make
        self._estimate = estimate_bytes
        self._servable: ObjectServable[T] | None = None

    def estimate_resources(self) -> int:
        """The estimate, given or computed."""
        return self._estimate if isinstance(self._estimate, int) else self._estimate()

    def load(self) -> None:
        """Make the object."""
        self._servable = ObjectServable(self._make())

    def unload(self) -> None:
        """Drop the loader's reference to the object."""
        self._servable = None

    @property
    def servable(self) -> ObjectServable[T]:
        """The object, as a servable."""
        if self._servable is None:
            raise FailedPreconditionError("the object is not loaded")
        return self._servable


@dataclass(frozen=True, slots=True)
class Handle(Generic[T_co]):
    """A version's object, valid while the handle is held.

    Attributes:
        id: The version.
        value: The loaded object.
    """

    id: ServableId
    value: T_co


class ServableHandles:
    """A publisher that hands out handles to the available versions.

    Only for managers of `ObjectServable`: the load of any other servable fails. Safe to use from several threads; a
    look-up waits only for other look-ups.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._available: dict[str, dict[int, ObjectServable[Any]]] = {}

    def __call__(self, event: ServableEvent) -> None:
        """Put a state into effect; called by the manager.

        Raises:
            TypeError: The servable that became available is no `ObjectServable`; only a server can serve it.
        """
        with self._changed:
            if event.state is ServableState.AVAILABLE:
                if not isinstance(event.servable, ObjectServable):
                    found = type(event.servable).__name__
                    raise TypeError(
                        f"ServableHandles hands out ObjectServable; the loader of {event.id} made a {found}"
                    )
                self._available.setdefault(event.id.name, {})[event.id.version] = event.servable
                self._changed.notify_all()
                return
            versions = self._available.get(event.id.name, {})
            versions.pop(event.id.version, None)
            if not versions:
                self._available.pop(event.id.name, None)

    def available(self) -> list[ServableId]:
        """Every available version, in order."""
        with self._changed:
            return sorted(
                ServableId(name, version)
                for name, versions in self._available.items()
                for version in versions
            )

    @contextlib.contextmanager
    def handle(
        self, name: str, version: int | None = None, *, timeout_seconds: float = 0.0
    ) -> Iterator[Handle[Any]]:
        """Hold a version: it stays loaded until the block ends.

        Args:
            name: The stream.
            version: Which version; the highest available one if not given.
            timeout_seconds: How long to wait for it to become available.

        Raises:
            NotFoundError: There is no such version, or it is not available.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._find(name, version) is not None, timeout_seconds)
            match = self._find(name, version)
            if match is None:
                raise not_found_error(name, version)
            found, servable = match
            # Under the lock: a version that has been withdrawn gets no new users.
            servable.hold()
        try:
            yield Handle(ServableId(name, found), servable.value)
        finally:
            servable.release()

    def _find(self, name: str, version: int | None) -> tuple[int, ObjectServable[Any]] | None:
        versions = self._available.get(name, {})
        found = max(versions, default=None) if version is None else version
        return None if found is None or found not in versions else (found, versions[found])


def not_found_error(name: str, version: int | None) -> NotFoundError:
    """The error of a request for a version that is not served."""
    asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
    return NotFoundError(f"Servable not found for request: {asked}")
