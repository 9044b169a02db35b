"""ONNX models, run by ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from servable.errors import Code, LoadError, ServableError
from servable.lifecycle import Loader, ServableId
from servable.loaders._manifest import read_manifest
from servable.loaders._native import NativeLoader
from servable.loaders._onnx import OnnxOptions, cuda_libraries, onnx_runtime
from servable.loaders._onnx_file import (
    has_external_data,
    read_local,
    read_model,
    require_external_data,
    size_of_external_data,
)
from servable.loaders._wire import CutOffError, ForwardFile
from servable.platforms import (
    Platform,
    PlatformContext,
    VersionDirectory,
    names_in,
    path_in,
)
from servable.platforms._native import NativePlatform

if TYPE_CHECKING:
    from servable._server.border.gateway import Servable

MODEL_FILE = "model.onnx"
SUFFIX = ".onnx"

_RAM_PER_FILE_BYTE = 2.0
"""During a load: the parsed file, and the weights in the layout of the kernels."""


class OnnxPlatform(NativePlatform):
    """Loads models with ONNX Runtime's C API."""

    contents = (
        f"an ONNX model is {MODEL_FILE}, or the only file *{SUFFIX}, beside its external data"
    )
    serves_files = True
    precedence = -1  # a directory of another kind may have a converted copy beside it
    options_type = OnnxOptions

    def __init__(self, name: str, context: PlatformContext) -> None:
        """Make the platform; nothing is opened yet."""
        super().__init__(name, context, onnx_runtime())

    def recognises(self, files: Collection[str]) -> bool:
        """Whether there is a model."""
        return model_file(files) is not None

    def has_all_files(
        self, files: Collection[str], open_file: Callable[[str], ForwardFile] | None = None
    ) -> bool:
        """Whether there is a model with its external data, as far as it can be opened."""
        name = model_file(files)
        if name is None:
            return False
        if open_file is None:
            return True
        try:
            model = read_model(open_file(name))
        except CutOffError:
            return False
        except (OSError, ServableError):
            return True  # the load reports what is wrong
        return model is None or model.files_inside().keys() <= set(files)

    def is_complete(self, directory: str) -> bool:
        """Whether there is a model with its external data."""
        name = model_file(names_in(directory))
        return name is not None and has_external_data(path_in(directory, name))

    def properties(self, directory: str) -> Mapping[str, str]:
        """Format, producer, operator sets and metadata of the model."""
        name = model_file(names_in(directory))
        try:
            model = read_local(path_in(directory, name)) if name else None
        except (CutOffError, OSError):
            model = None
        return model.properties if model else {}

    def describing_loader(self, directory: str) -> Loader:
        """Load the model without optimising it."""
        return self._loader(directory, OnnxOptions(graph_optimization="none"))

    def make_loader(self, servable_id: ServableId, directory: VersionDirectory) -> Loader:
        """Load with ONNX Runtime's C API."""
        del servable_id
        loader = self._loader(directory.path, self.options_of(directory))
        return self.completed(loader, directory)

    def _loader(self, version: str, options: OnnxOptions) -> NativeLoader:
        def load(version: str) -> Servable:
            name = model_file(names_in(version))
            if name is None:
                raise LoadError(f"{version}: want {self.contents}", code=Code.NOT_FOUND)
            require_external_data(path_in(version, name))
            manifest = read_manifest(version) if os.path.isdir(version) else None
            labels = [str(label) for label in manifest.class_labels] if manifest else ()
            with cuda_libraries(self.runtime, options):
                servable: Servable = self.runtime.get().load(
                    path_in(version, name),
                    options,
                    self.context.flags.max_run_seconds,
                    feature_names=manifest.feature_names if manifest else (),
                    class_labels=labels,
                    in_background=True,
                )
                return servable

        return NativeLoader(
            version, load, ram_per_file_byte=_RAM_PER_FILE_BYTE, other_bytes=_ram_of_files_beside
        )


def _ram_of_files_beside(version: str) -> int:
    """The memory for external data that are no part of the version, since that is a single file."""
    if not os.path.isfile(version):
        return 0
    return int(size_of_external_data(version) * _RAM_PER_FILE_BYTE)


def platforms(context: PlatformContext) -> Iterator[Platform]:
    """The only platform of ONNX models."""
    yield OnnxPlatform("onnx", context)


def model_file(files: Collection[str]) -> str | None:
    """The model among the files of a version; `None` if there is none, or several without a `model.onnx`."""
    if MODEL_FILE in files:
        return MODEL_FILE
    models = [name for name in files if name.endswith(SUFFIX) and "/" not in name]
    return models[0] if len(models) == 1 else None
