"""Finds the C libraries of installed packages, without importing the packages."""

from __future__ import annotations

import importlib.util
import re
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path
from typing import Generic, TypeVar

from servable.errors import Code, LoadError

Runtime = TypeVar("Runtime")


class WheelRuntime(Generic[Runtime]):
    """The runtime in an installed package, opened when the first model needs it.

    Its libraries stay open for the life of the process. Safe to use from several threads.

    Attributes:
        name: What users call it.
    """

    def __init__(
        self,
        name: str,
        package: str,
        patterns: Sequence[str],
        extra: str,
        open_library: Callable[[str], Runtime],
    ) -> None:
        """Describe a runtime; nothing is searched or opened yet.

        Args:
            name: What users call it, for messages.
            package: The package to search.
            patterns: Where the library may lie in the package, as patterns; the first that matches counts.
            extra: The extra of `servable` that installs it.
            open_library: Opens the library at a path.
        """
        self.name = name
        self._package = package
        self._patterns = patterns
        self._extra = extra
        self._install = f"install it with `pip install 'servable[{extra}]'`"
        self._open = open_library
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
                    raise self._unusable(
                        f"{error.message}; {self._versions()}{self._install}"
                    ) from error
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
            raise self._unusable(f"{self.name} is not installed; {self._install}")
        directories = [Path(place) for place in spec.submodule_search_locations]
        for pattern in self._patterns:
            found = [path for directory in directories for path in sorted(directory.glob(pattern))]
            if found:
                return str(found[-1])
        raise self._unusable(
            f"{self.name} in {directories[0]} has no {' or '.join(self._patterns)}; "
            f"{self._versions()}{self._install}"
        )

    def _versions(self) -> str:
        """Which version is installed, and which is wanted; empty if metadata are missing."""
        of_extra = re.compile(rf"""(.*?);.*\bextra == ['"]{self._extra}['"]""")
        try:
            distribution, *_ = packages_distributions()[self._package]
            found = version(distribution)
            wanted, *_ = filter(None, map(of_extra.match, requires("servable") or ()))
        except (PackageNotFoundError, LookupError, ValueError):
            return ""
        return f"found {distribution} {found}, want {wanted[1].strip()}; "

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
