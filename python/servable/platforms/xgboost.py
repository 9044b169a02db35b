"""XGBoost models, as `save_model` writes them in UBJSON or JSON."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from servable.errors import Code, LoadError
from servable.lifecycle import Loader, ServableId
from servable.loaders._native import NativeLoader
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
    from servable._server.border.gateway import Servable, XGBoost

_NAMES = ("model.ubj", "model.json")
_SUFFIX = ".ubj"
_RAM_PER_BYTE = {".ubj": 3.5, ".json": 12.5}
"""The most memory during a load, most of it for the parsed document."""


@dataclass(frozen=True, slots=True)
class XGBoostOptions:
    """The options of a model.

    Attributes:
        threads: The maximum number of threads for one batch.
        rows_per_thread: The minimum number of rows of a batch for each thread.
        all_rounds: Predict with all rounds of a training that stopped early, and not only up to the best one.
    """

    threads: int = 1
    rows_per_thread: int = 1024
    all_rounds: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("threads", "rows_per_thread"):
            if getattr(self, name) < 1:
                raise ValueError(f'option "{name}": got {getattr(self, name)}, want 1 or more')


class XGBoostPlatform(NativePlatform):
    """Runs models with XGBoost's C API."""

    contents = "an XGBoost model is model.ubj, model.json, or one file that ends in .ubj"
    serves_files = True
    options_type = XGBoostOptions

    def recognises(self, files: Collection[str]) -> bool:
        """Whether there is a file of such a name."""
        return bool(_model_file(files))

    def describing_loader(self, directory: str) -> Loader:
        """Load the model with default options."""
        return self._loader(directory, XGBoostOptions())

    def make_loader(self, servable_id: ServableId, directory: VersionDirectory) -> Loader:
        """Load with XGBoost's C API."""
        del servable_id
        return self.completed(self._loader(directory.path, self.options_of(directory)), directory)

    def _loader(self, path: str, options: Any) -> NativeLoader:
        suffix = os.path.splitext(_model_file(names_in(path)))[1]
        ratio = _RAM_PER_BYTE.get(suffix, max(_RAM_PER_BYTE.values()))
        return NativeLoader(path, partial(self._load, options=options), ram_per_file_byte=ratio)

    def _load(self, path: str, options: XGBoostOptions) -> Servable:
        file = _model_file(names_in(path))
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
            all_rounds=options.all_rounds,
            in_background=True,
        )
        return servable


def platforms(context: PlatformContext) -> Iterator[Platform]:
    """The only platform of XGBoost."""
    runtime = WheelRuntime("XGBoost", "xgboost", ["lib/libxgboost.*"], "xgboost", _open)
    yield XGBoostPlatform("xgboost", context, runtime)


def _open(library: str) -> XGBoost:
    from servable._server.border.gateway import XGBoost

    return XGBoost(library)


def _model_file(files: Collection[str]) -> str:
    """The model among the files of a version; empty if there is none."""
    for name in _NAMES:
        if name in files:
            return name
    found = [name for name in files if name.endswith(_SUFFIX) and "/" not in name]
    return found[0] if len(found) == 1 else ""
