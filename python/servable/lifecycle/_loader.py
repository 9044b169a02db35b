"""What knows how to load and unload one version (docs/spec/lifecycle.md §5)."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


class Servable(Protocol):
    """What a loader makes: something that answers requests and knows when it is idle."""

    def wait_until_idle(self, timeout_seconds: float | None = None) -> bool:
        """Wait until no request can reach the servable and none holds it.

        Called after the servable has been withdrawn from routing.

        Args:
            timeout_seconds: How long to wait at most; `None` waits without limit.

        Returns:
            Whether it is idle.
        """


class Loader(Protocol):
    """Knows how to estimate, load and unload one version.

    The caller promises: calls never overlap; `unload` comes once, after a successful `load` and
    when the servable is idle; after that the loader is dropped. A version that is wanted again gets
    a new loader.

    The implementer promises: a `load` that fails leaves the loader as it was, since it is called
    again on a retry, or the loader is dropped for one with a newer configuration; nothing of the
    version stays in memory after `unload`. Both may take minutes and run on a thread of their own,
    beside other loaders.
    """

    def estimate_resources(self) -> int:
        """The most bytes of memory that the version needs, while loading and after.

        Asked before `load` where memory is limited.

        Raises:
            ServableError: The estimate cannot be made; the version ends with this error.
        """

    def load(self) -> None:
        """Load the version, so that `servable` can answer.

        Raises:
            Exception: It could not be loaded. A `ServableError` is shown as it is, anything else as
                an INTERNAL error that names the exception.
        """

    def unload(self) -> None:
        """Release everything the version holds."""

    @property
    def servable(self) -> Servable:
        """What was loaded; only asked between a successful `load` and `unload`."""


@runtime_checkable
class Preparable(Protocol):
    """What a loader has beside its own contract if some of its work needs no turn.

    A fetch takes long, but neither memory nor processors: while one version is fetched, others are
    loaded.
    """

    def prepare(self) -> None:
        """Do what can be done before the version takes its turn to be loaded.

        Called before each `load`, and not always followed by it. A failure counts as one of the
        load.

        Raises:
            Exception: As `load` does.
        """
