"""What a kind of servable is to a server."""

from __future__ import annotations

import abc
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from servable._server.config.batching import BATCHING_OFF, PlatformBatching, flags_batching
from servable._server.config.flags import Flags
from servable._server.config.permissions import PermissionsInForce
from servable._server.telemetry import ControlPlaneMetrics
from servable.lifecycle._ids import ServableId
from servable.lifecycle._loader import Loader
from servable.loaders._batching import BatchingLoader, SharedBatchThreads
from servable.loaders._description import SignatureDescription
from servable.warmup._replay import WarmUpLoader, WarmUpOptions

if TYPE_CHECKING:
    from servable.loaders._saved_model_files import ForwardFile
    from servable.sources._configured import VersionDirectory


@dataclass(frozen=True)
class PlatformContext:
    """What a server gives its platforms.

    Attributes:
        flags: The command line.
        metrics: Where loads and warm-ups are counted.
        permissions: What says which directories may bring code.
    """

    flags: Flags = field(default_factory=Flags)
    metrics: ControlPlaneMetrics = field(default_factory=ControlPlaneMetrics)
    permissions: PermissionsInForce = field(default_factory=PermissionsInForce)

    @cached_property
    def batching(self) -> PlatformBatching:
        """How requests are joined, for platforms that say nothing about it.

        Raises:
            ConfigError: A file that the flags name cannot be used.
        """
        if not self.flags.platform_config_file:
            return flags_batching(self.flags)
        return replace(BATCHING_OFF, origin="--platform_config_file does not name the platform")

    @cached_property
    def warm_up(self) -> WarmUpOptions:
        """How versions are warmed up, for platforms that say nothing about it."""
        return WarmUpOptions(
            recorded=self.flags.enable_model_warmup,
            iterations=max(1, self.flags.num_request_iterations_for_warmup),
            automatic=self.flags.enable_automatic_warmup,
            check_method_names=self.flags.enable_signature_method_name_check,
        )


class Platform(abc.ABC):
    """A kind of servable, under the name that `model_platform` gives it.

    Subclasses say how to recognise, describe and load a version. All methods may be called from
    several threads at once. `recognises`, `has_all_files` and `is_complete` are asked again and
    again: they read as little as they can, and raise nothing.

    Attributes:
        contents: What a version directory holds, as a sentence for people.
        runs_code: Whether to describe or load a version runs code that lies in its directory. Such
            directories are restricted, see `--allow_python_models`: the loader of one is made
            when the load begins, if the code may be run then.
        has_own_batch_threads: Whether each version has separate batch threads. Otherwise all
            versions of the platform share them, and a run that blocks delays other models.
        name: What `model_platform` calls it.
        context: What the server gives it.
        batching: How requests are joined into batches, as far as the configuration of a model does
            not say otherwise.
        warm_up: How versions are warmed up, likewise.
    """

    contents: ClassVar[str]
    runs_code: ClassVar[bool] = False
    has_own_batch_threads: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        context: PlatformContext,
        batching: PlatformBatching | None = None,
        warm_up: WarmUpOptions | None = None,
    ) -> None:
        """Make a platform; nothing is read or started yet.

        Args:
            name: What `model_platform` calls it.
            context: What the server gives it.
            batching: How requests are joined; by default as the flags say.
            warm_up: How versions are warmed up; by default as the flags say.

        Raises:
            ConfigError: A file that the flags name cannot be used.
        """
        self.name = name
        self.context = context
        self.batching = batching or context.batching
        self.warm_up = warm_up or context.warm_up
        self._threads = SharedBatchThreads(self.batching.parameters)

    @abc.abstractmethod
    def recognises(self, files: Collection[str]) -> bool:
        """Whether a directory with these files is a version of this kind.

        Args:
            files: Their paths, relative to the directory and with `/`.
        """

    def has_all_files(
        self, files: Collection[str], open_file: Callable[[str], ForwardFile] | None = None
    ) -> bool:
        """Whether these files are a whole version, and not one that is still being written.

        Args:
            files: Their paths, relative to the directory and with `/`.
            open_file: Opens one of them; without it only names count.
        """
        del open_file
        return self.recognises(files)

    def is_complete(self, directory: str) -> bool:
        """The same of a local directory; only what lies in it directly is looked at."""
        return self.has_all_files(names_in(directory))

    @abc.abstractmethod
    def describe(self, directory: str) -> Mapping[str, SignatureDescription]:
        """What a version takes and returns, by the names of signatures, without loading it.

        Raises:
            ServableError: It cannot be read.
            ImportError: Something that this needs is not installed.
        """

    @abc.abstractmethod
    def make_loader(self, servable_id: ServableId, directory: VersionDirectory) -> Loader:
        """Describe how a version is loaded, batched and warmed up; nothing is read yet.

        Args:
            servable_id: The version.
            directory: Where it is, and how its model is configured. Both stay as they are: where
                the configuration changes, the next attempt to load comes to a new loader.

        Returns:
            The loader. Most are made by `completed` of one that loads.
        """

    def require_installed(self) -> None:  # noqa: B027 - most platforms need nothing
        """Find out early whether versions can be loaded at all.

        Raises:
            LoadError: Something that the platform needs is not installed.
        """

    def completed(self, loader: Loader, directory: VersionDirectory) -> Loader:
        """Have a version batched and warmed up once another loader has loaded it."""
        model, path = directory.model, directory.path
        batched = BatchingLoader(
            loader,
            path,
            self.batching,
            model.batching,
            SharedBatchThreads(self.batching.parameters)
            if self.has_own_batch_threads
            else self._threads,
            reruns=self.context.flags.rerun_failed_batches,
        )
        is_automatic = self.warm_up.automatic or model.automatic_warm_up
        options = replace(self.warm_up, automatic=is_automatic)
        return WarmUpLoader(batched, path, options, self.context.metrics)


def names_in(directory: str) -> frozenset[str]:
    """What lies in a directory; nothing where it cannot be listed."""
    try:
        return frozenset(os.listdir(directory))
    except OSError:
        return frozenset()
