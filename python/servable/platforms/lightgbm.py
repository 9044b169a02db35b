"""LightGBM models, as `save_model` writes them in text."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from servable.errors import Code, LoadError
from servable.lifecycle import Loader, ServableId
from servable.loaders._native import NativeLoader
from servable.loaders._size import size_of_files
from servable.loaders._trees import tree_options
from servable.loaders._wheels import WheelRuntime
from servable.platforms import (
    Platform,
    PlatformContext,
    VersionDirectory,
)
from servable.platforms._native import NativePlatform
from servable.platforms._platform import names_in, path_in

if TYPE_CHECKING:
    from servable._server.border.gateway import LightGBM, Servable

_NAME = "model.txt"
_SUFFIX = ".txt"
_RAM_PER_BYTE = 2.0
"""The memory of one copy of a model, relative to the size of its file."""
_BYTES_OF_COPIES = 128 << 20
"""The most memory for copies that nobody has asked for."""


@dataclass(frozen=True, slots=True)
class LightGBMOptions:
    """The options of a model.

    Attributes:
        threads: The maximum number of threads for one batch.
        rows_per_thread: The minimum number of rows of a batch for each thread.
        boosters: How often the model is loaded, so that threads do not share the lock of one booster; 0 for once a
            worker thread, if the model is small.
    """

    threads: int = 1
    rows_per_thread: int = 1024
    boosters: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, least in (("threads", 1), ("rows_per_thread", 1), ("boosters", 0)):
            if getattr(self, name) < least:
                raise ValueError(
                    f'option "{name}": got {getattr(self, name)}, want {least} or more'
                )


class LightGBMPlatform(NativePlatform):
    """Runs models with LightGBM's C API."""

    contents = "a LightGBM model is model.txt"
    serves_files = True
    options_type = LightGBMOptions

    def recognises(self, files: Collection[str]) -> bool:
        """Whether there is a file of this name."""
        return _NAME in files

    def is_complete(self, directory: str) -> bool:
        """Whether there is a file of this name; a text file that is configured may have any name."""
        return bool(_model_file(directory))

    def describing_loader(self, directory: str) -> Loader:
        """Load the model once."""
        return self._loader(directory, LightGBMOptions(boosters=1))

    def make_loader(self, servable_id: ServableId, directory: VersionDirectory) -> Loader:
        """Load with LightGBM's C API."""
        del servable_id
        loader = self._loader(directory.path, self.options_of(directory))
        return self.completed(loader, directory)

    def _loader(self, path: str, options: LightGBMOptions) -> NativeLoader:
        return _CopyingLoader(
            path, partial(self._load, options=options), partial(self._copies, options=options)
        )

    def _copies(self, path: str, options: LightGBMOptions) -> int:
        if options.boosters:
            return options.boosters
        workers = self.context.flags.worker_threads or os.cpu_count() or 1
        bytes_of_one = max(1, int(size_of_files(path) * _RAM_PER_BYTE))
        return max(1, min(workers, _BYTES_OF_COPIES // bytes_of_one))

    def _load(self, path: str, options: LightGBMOptions) -> Servable:
        file = _model_file(path)
        if not file:
            raise LoadError(f"{path} has no model; {self.contents}", code=Code.NOT_FOUND)
        servable: Servable = self.runtime.get().load_model(
            path_in(path, file),
            tree_options(
                path,
                options.threads,
                options.rows_per_thread,
                self.context.flags.max_run_seconds,
            ),
            copies=self._copies(path, options),
            in_background=True,
        )
        return servable


class _CopyingLoader(NativeLoader):
    """Loads several copies of a model, and estimates their memory."""

    def __init__(
        self, path: str, load: Callable[[str], Servable], copies: Callable[[str], int]
    ) -> None:
        super().__init__(path, load, ram_per_file_byte=_RAM_PER_BYTE)
        self._copies = copies

    def estimate_resources(self) -> int:
        """The memory of all copies, and of the text."""
        return super().estimate_resources() * self._copies(self._path) + size_of_files(self._path)


def platforms(context: PlatformContext) -> Iterator[Platform]:
    """The only platform of LightGBM."""
    runtime = WheelRuntime("LightGBM", "lightgbm", ["lib/lib_lightgbm.*"], "lightgbm", _open)
    yield LightGBMPlatform("lightgbm", context, runtime)


def _open(library: str) -> LightGBM:
    from servable._server.border.gateway import LightGBM

    try:
        return LightGBM(library)
    except LoadError as error:
        if "libgomp" not in error.message:
            raise
        raise LoadError(
            f"{error.message}; LightGBM needs OpenMP of the system: `apt-get install libgomp1`, or "
            "the package libgomp of other distributions"
        ) from error


def _model_file(version: str) -> str:
    """The model of a version; empty if there is none."""
    names = names_in(version)
    if _NAME in names:
        return _NAME
    is_text = os.path.isfile(version) and version.endswith(_SUFFIX)
    return os.path.basename(version) if is_text else ""
