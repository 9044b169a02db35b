"""What loaders have in common that add something to the load of another one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from servable.lifecycle._loader import Loader, Servable


class WrappingLoader(ABC):
    """Loads a version with another loader, then completes it; see `servable.lifecycle.Loader`.

    For subclasses, which say in `completion` what there is to do.
    """

    def __init__(self, loader: Loader) -> None:
        """Name the loader that does the work; nothing is read yet."""
        self._loader = loader

    def estimate_resources(self) -> int:
        """What the version itself needs."""
        return self._loader.estimate_resources()

    def load(self) -> None:
        """Load the version and complete it; a failure of that undoes the load."""
        complete = self.completion()
        self._loader.load()
        try:
            complete(self._loader.servable)
        except BaseException:
            self._loader.unload()
            raise

    @abstractmethod
    def completion(self) -> Callable[[Servable], None]:
        """Find out what there is to do, before the version is loaded.

        Returns:
            What does it to the loaded version, on the thread of the load and before anybody else
            sees it. If it raises, so does `load`.

        Raises:
            Exception: As `load` does, which does not begin then.
        """

    def unload(self) -> None:
        """Unload the version."""
        self._loader.unload()

    @property
    def servable(self) -> Servable:
        """What was loaded."""
        return self._loader.servable
