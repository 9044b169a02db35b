"""Loads TensorFlow Lite models with the LiteRT of an installed wheel."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from servable.loaders._native import NativeLoader
from servable.loaders._wheels import WheelRuntime

if TYPE_CHECKING:
    from servable._server.border.gateway import LiteRt

MODEL_FILE = "model.tflite"
"""The name that TensorFlow Serving looks for."""

ROWS_OF_A_POOL = 500
"""The largest batch that TensorFlow Serving divides among the interpreters of a pool (docs/spec/lifecycle.md §21)."""


@dataclass(frozen=True, slots=True)
class LiteRtOptions:
    """Options for loading and running a TensorFlow Lite model.

    Rust reads the fields by name.

    Attributes:
        interpreters: The number of concurrent runs; each has memory of its own.
        threads: The threads of one run.
        rows_per_run: Larger batches are split into concurrent runs; 0 to run each batch as it is.
        tensorflow_serving_names: Take signatures and names as TensorFlow Serving does.
        max_run_seconds: The longest run; 0 for no limit (`--max_run_seconds`).
    """

    interpreters: int = 1
    threads: int = 1
    rows_per_run: int = 0
    tensorflow_serving_names: bool = False
    max_run_seconds: float = 0.0


def rows_per_run(interpreters_per_pool: int) -> int:
    """How TensorFlow Serving splits batches for `--num_tflite_interpreters_per_pool`, as an option."""
    return -(-ROWS_OF_A_POOL // interpreters_per_pool) if interpreters_per_pool > 1 else 0


def litert_runtime() -> WheelRuntime[LiteRt]:
    """The LiteRT of the installed package; nothing is opened yet."""
    return WheelRuntime(
        "LiteRT", "ai_edge_litert", ("libLiteRt.so", "libLiteRt.dylib"), "tflite", _open
    )


def litert_loader(path: str, runtime: WheelRuntime[LiteRt], options: LiteRtOptions) -> NativeLoader:
    """The loader of a model file."""
    return NativeLoader(
        path,
        lambda file: runtime.get().load_model(file, options, in_background=True),
        # The file, and its weights in the layout of the kernels, for each interpreter.
        ram_per_file_byte=1.2 + options.interpreters,
    )


def model_file(files: Collection[str]) -> str | None:
    """The TensorFlow Lite model among the files of a version: `model.tflite`, or the only one."""
    if MODEL_FILE in files:
        return MODEL_FILE
    models = [name for name in files if name.endswith(".tflite") and "/" not in name]
    return models[0] if len(models) == 1 else None


def _open(library: str) -> LiteRt:
    # Only this needs the extension.
    from servable._server.border.gateway import LiteRt

    return LiteRt(library)
