"""What loaders have in common that add something to the load of another one."""

from __future__ import annotations

from abc import ABC, abstractmethod

from servable.lifecycle.loader import Loader, Servable


class WrappingLoader(ABC):
    """Loads a version with another loader, then completes it; see `servable.lifecycle.Loader`.

    For subclasses, which say in `complete` what there is to do.
    """

    def __init__(self, loader: Loader) -> None:
        """Name the loader that does the work; nothing is read yet."""
        self._loader = loader

    def estimate_resources(self) -> int:
        """What the version itself needs."""
        return self._loader.estimate_resources()

    def load(self) -> None:
        """Load the version and complete it; a failure of that undoes the load."""
        self._loader.load()
        try:
            self.complete(self._loader.servable)
        except BaseException:
            self._loader.unload()
            raise

    @abstractmethod
    def complete(self, servable: Servable) -> None:
        """Do what is added, on the thread of the load and before anybody sees the version.

        Args:
            servable: What was loaded.

        Raises:
            Exception: As `load` does.
        """

    def unload(self) -> None:
        """Unload the version."""
        self._loader.unload()

    @property
    def servable(self) -> Servable:
        """What was loaded."""
        return self._loader.servable
