"""The contract of loaders, which load and unload one version (docs/spec/lifecycle.md §5)."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


class Servable(Protocol):
    """A loaded version: answers requests and can tell when it is idle."""

    def wait_until_idle(self, timeout_seconds: float | None = None) -> bool:
        """Wait until no request can reach the servable and none holds it.

        Called after the servable has been withdrawn from routing.

        Args:
            timeout_seconds: How long to wait at most; `None` waits without limit.

        Returns:
            Whether it is idle.
        """


class Loader(Protocol):
    """Estimates, loads and unloads one version.

    The caller promises:
    - Calls never overlap.
    - `unload` is called once, after a successful `load` and when the servable is idle. Then the loader is dropped.
    - A version that is aspired to again gets a new loader.

    The implementer promises:
    - A `load` that fails leaves the loader unchanged. Either a retry calls `load` again, or the loader is dropped for
      one with a newer configuration.
    - After `unload` nothing of the version stays in memory.

    `load` and `unload` may take minutes. They run on worker threads, concurrently with other loaders.
    """

    def estimate_resources(self) -> int:
        """The most bytes of memory that the version needs, while loading and after.

        Called before `load` where memory is limited.

        Raises:
            ServableError: The estimate cannot be made; the version ends with this error.
        """

    def load(self) -> None:
        """Load the version, so that `servable` can answer.

        Raises:
            Exception: The load failed. A `ServableError` is reported unchanged, anything else as an INTERNAL error that
                names the exception.
        """

    def unload(self) -> None:
        """Release everything the version holds."""

    @property
    def servable(self) -> Servable:
        """The loaded servable; only called between a successful `load` and `unload`."""


@runtime_checkable
class Preparable(Protocol):
    """An optional extension of a loader, for work that needs no load slot.

    A download takes long, but neither memory nor processors: while one version is fetched, others are loaded.
    """

    def prepare(self) -> None:
        """Do the work that is possible before the version gets a load slot.

        Called before each `load`, but `load` does not always follow. A failure counts as a failure of the load.

        Raises:
            Exception: As `load` does.
        """
