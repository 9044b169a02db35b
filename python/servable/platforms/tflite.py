"""TensorFlow Lite models."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from servable.lifecycle import Loader, ServableId
from servable.loaders._litert import (
    LiteRtOptions,
    litert_loader,
    litert_runtime,
    model_file,
    rows_per_run,
)
from servable.platforms import (
    Platform,
    PlatformContext,
    VersionDirectory,
    names_in,
    path_in,
)
from servable.platforms._native import NativePlatform


@dataclass(frozen=True, slots=True)
class TFLiteOptions:
    """Options of one model.

    Attributes:
        interpreters: The number of concurrent runs; 0 for `--num_tflite_pools`.
        threads: The threads of one run.
    """

    interpreters: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        """Check the values."""
        for name, value, least in (
            ("interpreters", self.interpreters, 0),
            ("threads", self.threads, 1),
        ):
            if not least <= value <= 1024:
                raise ValueError(f'option "{name}": got {value}, want {least} to 1024')


class TFLitePlatform(NativePlatform):
    """Loads TensorFlow Lite models with LiteRT."""

    contents = "a TensorFlow Lite model is model.tflite, or the only file that ends in .tflite"
    serves_files = True
    precedence = -1  # the file may accompany the SavedModel that it was converted from
    options_type = TFLiteOptions

    def __init__(self, name: str, context: PlatformContext) -> None:
        """Make the platform; nothing is opened yet."""
        super().__init__(name, context, litert_runtime())

    def recognises(self, files: Collection[str]) -> bool:
        """Whether there is a model file."""
        return model_file(files) is not None

    def describing_loader(self, directory: str) -> Loader:
        """Load the model with one interpreter."""
        return litert_loader(self._path(directory), self.runtime, LiteRtOptions())

    def make_loader(self, servable_id: ServableId, directory: VersionDirectory) -> Loader:
        """Load with LiteRT's C API."""
        del servable_id
        flags, chosen = self.context.flags, self.options_of(directory)
        options = LiteRtOptions(
            interpreters=chosen.interpreters or max(1, flags.num_tflite_pools),
            threads=chosen.threads,
            rows_per_run=rows_per_run(flags.num_tflite_interpreters_per_pool),
            max_run_seconds=flags.max_run_seconds,
        )
        loader = litert_loader(self._path(directory.path), self.runtime, options)
        return self.completed(loader, directory)

    @staticmethod
    def _path(version: str) -> str:
        return path_in(version, model_file(names_in(version)) or "model.tflite")


def platforms(context: PlatformContext) -> Iterator[Platform]:
    """The only platform of TensorFlow Lite models."""
    yield TFLitePlatform("tflite", context)
