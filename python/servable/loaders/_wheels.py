"""Finds the C libraries of installed packages, without importing the packages."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from servable.errors import Code, LoadError

Runtime = TypeVar("Runtime")


class WheelRuntime(Generic[Runtime]):
    """The runtime in an installed package, opened when the first model needs it.

    Its libraries stay open for the life of the process. Safe to use from several threads.
    """

    def __init__(
        self,
        name: str,
        package: str,
        patterns: Sequence[str],
        extra: str,
        open_library: Callable[[str], Runtime],
        *,
        since: str = "",
    ) -> None:
        """Describe a runtime; nothing is searched or opened yet.

        Args:
            name: What users call it, for messages.
            package: The package to search.
            patterns: Where the library may lie in the package, as patterns; the first that matches counts.
            extra: The extra of `servable` that installs it.
            open_library: Opens the library at a path.
            since: The first version of the package with the library, for messages; empty for any.
        """
        self._name = name
        self._package = package
        self._patterns = patterns
        self._install = f"install it with `pip install 'servable[{extra}]'`"
        self._open = open_library
        self._wanted = f", want version {since} or later" if since else ""
        self._lock = threading.Lock()
        self._runtime: Runtime | None = None

    def require_installed(self) -> None:
        """Check, without opening anything, whether models can be loaded at all.

        Raises:
            LoadError: The package is not installed, or has no library.
        """
        self.find()

    def get(self) -> Runtime:
        """The open runtime.

        Raises:
            LoadError: It is not installed, or cannot be used; retried at the next call.
        """
        with self._lock:
            if self._runtime is None:
                library = self.find()
                try:
                    self._runtime = self._open(library)
                except LoadError as error:
                    raise self._unusable(f"{error.message}; {self._install}") from error
            return self._runtime

    def find(self) -> str:
        """The path of the library; it is not opened.

        Raises:
            LoadError: The package is not installed, or has no library.
        """
        try:
            spec = importlib.util.find_spec(self._package)
        except (ImportError, ValueError):
            spec = None
        if spec is None or not spec.submodule_search_locations:
            raise self._unusable(f"{self._name} is not installed; {self._install}")
        directories = [Path(place) for place in spec.submodule_search_locations]
        for pattern in self._patterns:
            found = [path for directory in directories for path in sorted(directory.glob(pattern))]
            if found:
                return str(found[-1])
        package = f"{self._name} {self._version()}".rstrip()
        missing = " or ".join(self._patterns)
        raise self._unusable(
            f"{package} in {directories[0]} has no {missing}{self._wanted}; {self._install}"
        )

    def _version(self) -> str:
        """The version of the package; empty if it is unknown."""
        with contextlib.suppress(importlib.metadata.PackageNotFoundError, LookupError):
            distributions = importlib.metadata.packages_distributions()[self._package]
            return importlib.metadata.version(distributions[0])
        return ""

    @staticmethod
    def _unusable(message: str) -> LoadError:
        return LoadError(message, code=Code.FAILED_PRECONDITION)


def require_package(name: str, package: str, *, extra: str) -> None:
    """Find an installed package, without importing it.

    Args:
        name: What users call it, for messages.
        package: The package.
        extra: The extra of `servable` that installs it.

    Raises:
        LoadError: It is not installed; the message has the command.
    """
    if importlib.util.find_spec(package) is None:
        raise LoadError(
            f"{name} is not installed; install it with `pip install 'servable[{extra}]'`",
            code=Code.FAILED_PRECONDITION,
        )
