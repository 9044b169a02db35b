"""The contract between a server and a kind of servable."""

from __future__ import annotations

import abc
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from servable._server.config.batching import BATCHING_OFF, PlatformBatching, flags_batching
from servable._server.config.flags import Flags
from servable._server.config.kind_options import NoOptions, parse_options
from servable._server.config.permissions import PermissionsInForce
from servable._server.telemetry import ControlPlaneMetrics
from servable.lifecycle._ids import ServableId
from servable.lifecycle._loader import Loader
from servable.loaders._batching import BatchingLoader, SharedBatchThreads
from servable.loaders._description import SignatureDescription
from servable.loaders._function import FunctionLoader, FunctionModel
from servable.loaders._worker_pool import WorkerLoader
from servable.warmup._replay import WarmUpLoader, WarmUpOptions

if TYPE_CHECKING:
    from servable.loaders._wire import ForwardFile
    from servable.sources._configured import VersionDirectory


class Role(Enum):
    """The process that loads versions."""

    SERVER = "server"
    WORKER = "worker"
    """Runs one version; the server batches requests and warms it up."""
    TRIAL = "trial"
    """Loads one version and warms it up, and ends."""


@dataclass(frozen=True)
class PlatformContext:
    """The parts of a server that platforms use.

    Attributes:
        flags: The command line.
        metrics: Counts loads and warm-ups.
        permissions: The directories that may provide code.
        role: The process that loads versions.
    """

    flags: Flags = field(default_factory=Flags)
    metrics: ControlPlaneMetrics = field(default_factory=ControlPlaneMetrics)
    permissions: PermissionsInForce = field(default_factory=PermissionsInForce)
    role: Role = Role.SERVER

    @cached_property
    def batching(self) -> PlatformBatching:
        """The default batching of platforms, from the flags.

        Raises:
            ConfigError: A file that the flags name cannot be used.
        """
        if not self.flags.platform_config_file:
            return flags_batching(self.flags)
        return replace(BATCHING_OFF, origin="--platform_config_file does not name the platform")

    @cached_property
    def warm_up(self) -> WarmUpOptions:
        """The default warm-up of platforms, from the flags."""
        return WarmUpOptions(
            recorded=self.flags.enable_model_warmup,
            iterations=max(1, self.flags.num_request_iterations_for_warmup),
            automatic=self.flags.enable_automatic_warmup,
            check_method_names=self.flags.enable_signature_method_name_check,
        )


class Platform(abc.ABC):
    """A kind of servable, with its name in `model_platform`.

    Subclasses recognise, describe and load versions. All methods may be called from several threads concurrently.
    `recognises`, `has_all_files` and `is_complete` are called often: they read as little as possible, and raise
    nothing.

    Attributes:
        contents: The contents of a version directory, as a sentence for messages.
        runs_code: Whether describing or loading a version runs code in its directory. Such directories are restricted,
            see `--allow_python_models`: the loader is made when the load begins, if the code may be run then.
        has_own_batch_threads: Whether each version has separate batch threads. Otherwise all versions of the platform
            share them, and a run that blocks delays other models.
        serves_files: Whether a version may also be a single file, such as `iris.onnx`, that `recognises` accepts alone.
            `describe` and `make_loader` then get the path of the file in place of a directory's. `names_in` and
            `path_in` work for both.
        precedence: Which kind serves a directory that several kinds recognise: that with the highest number. Raise it
            for a kind that uses files of other kinds, and lower it for one whose files accompany others.
        options_type: A dataclass of the options that models may have, see `servable_options { options {…} }`. They are
            checked when a configuration is read; `options_of` returns them.
        name: The name in `model_platform`.
        context: The parts of the server that it uses.
        batching: The batching of its models; a model's configuration overrides it.
        warm_up: The warm-up of its models, likewise.
    """

    contents: ClassVar[str]
    runs_code: ClassVar[bool] = False
    has_own_batch_threads: ClassVar[bool] = False
    serves_files: ClassVar[bool] = False
    precedence: ClassVar[int] = 0
    options_type: ClassVar[type[Any]] = NoOptions

    def __init__(
        self,
        name: str,
        context: PlatformContext,
        batching: PlatformBatching | None = None,
        warm_up: WarmUpOptions | None = None,
    ) -> None:
        """Make a platform; nothing is read or started yet.

        Args:
            name: The name in `model_platform`.
            context: The parts of the server that it uses.
            batching: The batching of its models; by default from the flags.
            warm_up: The warm-up of its models; by default from the flags.

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
        """Whether these files are a complete version, in contrast to one that is still being written.

        Args:
            files: Their paths, relative to the directory and with `/`.
            open_file: Opens one of them; without it only names count.
        """
        del open_file
        return self.recognises(files)

    def is_complete(self, directory: str) -> bool:
        """The same for a local version; only the direct entries of a directory are inspected."""
        if not self.serves_files and os.path.isfile(directory):
            return False
        return self.has_all_files(names_in(directory))

    @abc.abstractmethod
    def describe(self, directory: str) -> Mapping[str, SignatureDescription]:
        """The signatures of a version, by name, without loading it.

        Raises:
            ServableError: It cannot be read.
            ImportError: A required package is not installed.
        """

    def properties(self, directory: str) -> Mapping[str, str]:
        """What the files tell about a version beside its signatures, by name, for people; raises nothing."""
        del directory
        return {}

    @abc.abstractmethod
    def make_loader(self, servable_id: ServableId, directory: VersionDirectory) -> Loader:
        """Describe how a version is loaded, batched and warmed up; nothing is read yet.

        Args:
            servable_id: The version.
            directory: Its directory, and the configuration of its model. Both are constant: after a change of the
                configuration, the next attempt to load gets a new loader.

        Returns:
            The loader; usually the result of `completed`.
        """

    def require_installed(self) -> None:  # noqa: B027 - most platforms need nothing
        """Check early whether versions can be loaded at all.

        Raises:
            LoadError: A requirement of the platform is not installed.
        """

    def options_of(self, directory: VersionDirectory) -> Any:
        """The options of the model of a version, as `options_type`.

        Raises:
            ConfigError: An option is unknown, or its value is invalid.
        """
        return parse_options(self.options_type, directory.model.options)

    def in_workers(
        self,
        servable_id: ServableId,
        directory: VersionDirectory,
        open_model: Callable[[Path], FunctionModel],
    ) -> Loader:
        """The completed loader of a model that runs as a function of arrays, in worker processes.

        Args:
            servable_id: The version.
            directory: Its directory. The configuration of its model has the number of workers, at least one.
            open_model: Opens the model in a directory; pickled for the workers.
        """
        make_loader = partial(
            FunctionLoader,
            servable_id,
            directory.path,
            open_model,
            max_run_seconds=self.context.flags.max_run_seconds,
        )
        loader: Loader = make_loader()
        if self.context.role is Role.SERVER:
            name = f"{servable_id.name}/{servable_id.version}"
            processes = max(directory.model.python.workers, 1)
            loader = WorkerLoader(name, make_loader, loader.estimate_resources, processes=processes)
        return self.completed(loader, directory)

    def completed(self, loader: Loader, directory: VersionDirectory) -> Loader:
        """Wrap a loader, so that its version is batched and warmed up, unless another process does that."""
        model, path = directory.model, directory.path
        if self.context.role is Role.WORKER:
            return loader
        if self.context.role is Role.SERVER:
            has_own_threads = self.has_own_batch_threads or model.process
            loader = BatchingLoader(
                loader,
                path,
                self.batching,
                model.batching,
                SharedBatchThreads(self.batching.parameters) if has_own_threads else self._threads,
                reruns=self.context.flags.rerun_failed_batches,
            )
        is_automatic = self.warm_up.automatic or model.automatic_warm_up
        options = replace(self.warm_up, automatic=is_automatic)
        return WarmUpLoader(loader, path, options, self.context.metrics)


def names_in(version: str) -> frozenset[str]:
    """The entries of a version directory, or the name of a single file; empty if it cannot be listed."""
    try:
        return frozenset(os.listdir(version))
    except NotADirectoryError:
        return frozenset([os.path.basename(version)])
    except OSError:
        return frozenset()


def path_in(version: str, name: str) -> str:
    """The path of one of `names_in(version)`."""
    return os.path.join(version, name) if os.path.isdir(version) else version
