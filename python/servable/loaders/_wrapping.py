"""The common base of loaders that extend the load of another one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from servable.lifecycle._loader import Loader, Servable


class WrappingLoader(ABC):
    """Loads a version with another loader, then completes it; see `servable.lifecycle.Loader`.

    Subclasses implement `completion`.
    """

    def __init__(self, loader: Loader) -> None:
        """Set the wrapped loader; nothing is read yet."""
        self._loader = loader

    def estimate_resources(self) -> int:
        """The estimate of the wrapped loader."""
        return self._loader.estimate_resources()

    def load(self) -> None:
        """Load the version and complete it; if that fails, the load is undone."""
        complete = self.completion()
        self._loader.load()
        try:
            complete(self._loader.servable)
        except BaseException:
            self._loader.unload()
            raise

    @abstractmethod
    def completion(self) -> Callable[[Servable], None]:
        """Prepare the completion, before the version is loaded.

        Returns:
            A function that completes the loaded version. It runs on the loading thread, before the version is used. If
            it raises, so does `load`.

        Raises:
            Exception: As `load` does; the load then does not begin.
        """

    def unload(self) -> None:
        """Unload the version."""
        self._loader.unload()

    @property
    def servable(self) -> Servable:
        """The loaded servable."""
        return self._loader.servable
