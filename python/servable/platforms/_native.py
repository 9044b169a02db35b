"""Kinds of servables that the C library of an installed wheel loads and runs."""

from __future__ import annotations

import abc
import os
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol, cast

from servable._server.config.flags import Flags
from servable.errors import Code, LoadError
from servable.lifecycle._loader import Loader
from servable.loaders._description import SignatureDescription
from servable.loaders._native import loaded_signatures
from servable.loaders._wheels import WheelRuntime
from servable.loaders._worker_pool import WorkerDiedError, WorkerLoader
from servable.platforms._platform import Platform, PlatformContext
from servable.platforms._registry import find_platforms


class NativePlatform(Platform):
    """Loads versions with the library of one wheel.

    Attributes:
        runtime: The library; opened by the first load.
    """

    def __init__(self, name: str, context: PlatformContext, runtime: WheelRuntime[Any]) -> None:
        """Combine a context and the runtime; nothing is opened yet."""
        super().__init__(name, context)
        self.runtime = runtime

    @abc.abstractmethod
    def describing_loader(self, directory: str) -> Loader:
        """The loader of a version whose signatures are wanted only; it saves what runs need."""

    def describe(self, directory: str) -> Mapping[str, SignatureDescription]:
        """Load the model in another process, and take its signatures."""
        return described_elsewhere(self, self.runtime, directory)

    def require_installed(self) -> None:
        """Find the library."""
        self.runtime.require_installed()


class DescribedByLoads(Protocol):
    """A platform whose versions have signatures only after a load."""

    name: str
    context: PlatformContext

    def describing_loader(self, directory: str) -> Loader:
        """See `NativePlatform`."""


def described_elsewhere(
    platform: DescribedByLoads, runtime: WheelRuntime[Any], directory: str
) -> Mapping[str, SignatureDescription]:
    """The signatures of a version, loaded in a process that then ends: a damaged file may crash the library.

    Args:
        platform: Its kind.
        runtime: The library.
        directory: The version.

    Raises:
        LoadError: The load failed, or the library ended the process.
    """
    make_loader = partial(_describing_loader, platform.context.flags, platform.name, directory)
    loader = WorkerLoader(os.path.basename(directory), make_loader, lambda: 0)
    try:
        return loaded_signatures(loader)
    except WorkerDiedError as error:
        raise LoadError(
            f"{directory}: got a model with which {runtime.name} crashes (its process {error.end}), "
            f"want one that it loads",
            code=Code.DATA_LOSS,
        ) from None


def _describing_loader(flags: Flags, name: str, directory: str) -> Loader:
    platform = find_platforms(PlatformContext(flags=flags))[name]
    return cast("DescribedByLoads", platform).describing_loader(directory)
