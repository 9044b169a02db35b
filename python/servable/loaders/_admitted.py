"""Loads versions that contain code, if the code may be run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from servable._server.config.permissions import PermissionsInForce
from servable.errors import FailedPreconditionError
from servable.lifecycle._loader import Loader, Servable
from servable.sources._configured import VersionDirectory


class AdmittedLoader:
    """Checks at each load whether the code may be run; see `servable.lifecycle.Loader`."""

    def __init__(
        self,
        directory: VersionDirectory,
        permissions: PermissionsInForce,
        make_loader: Callable[[VersionDirectory], Loader],
    ) -> None:
        """Describe the load; nothing is read yet.

        Args:
            directory: The version.
            permissions: The current permissions.
            make_loader: Makes the loader for the permitted directory, which has no symbolic links.
        """
        self._directory = directory
        self._permissions = permissions
        self._make_loader = make_loader
        self._loader: Loader | None = None

    def estimate_resources(self) -> int:
        """The estimate of the version."""
        return self._make_loader(self._directory).estimate_resources()

    def load(self) -> None:
        """Load the version.

        Raises:
            ServableError: Its code must not be run.
        """
        directory = self._directory
        path = self._permissions.admit_code(directory.model, directory.path)
        loader = self._make_loader(replace(directory, path=path))
        loader.load()
        self._loader = loader

    def unload(self) -> None:
        """Unload the version."""
        loader, self._loader = self._loader, None
        if loader is not None:
            loader.unload()

    @property
    def servable(self) -> Servable:
        """The loaded servable."""
        if self._loader is None:
            raise FailedPreconditionError(f"{self._directory.path} is not loaded")
        return self._loader.servable
