"""Loads TensorFlow Lite models with the LiteRT of an installed wheel."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from servable.loaders._manifest import read_manifest
from servable.loaders._native import NativeLoader
from servable.loaders._wheels import WheelRuntime

if TYPE_CHECKING:
    from servable._server.border.gateway import LiteRt, Servable

MODEL_FILE = "model.tflite"
"""The name that TensorFlow Serving looks for."""

ROWS_OF_A_POOL = 500
"""The largest batch that TensorFlow Serving divides among the interpreters of a pool (docs/spec/lifecycle.md §21)."""


MAX_LABEL_BYTES = 16 << 20
"""The limit for the labels of a model."""


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
        feature_names: The names of the columns of the only input, in order; empty if they are unknown.
        class_labels: The labels of the classes, in the order of their scores; empty if they are unknown.
    """

    interpreters: int = 1
    threads: int = 1
    rows_per_run: int = 0
    tensorflow_serving_names: bool = False
    max_run_seconds: float = 0.0
    feature_names: tuple[str, ...] = ()
    class_labels: tuple[str, ...] = ()


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

    def load(file: str) -> Servable:
        known = options if options.tensorflow_serving_names else _with_names(file, options)
        return runtime.get().load_model(file, known, in_background=True)

    def tensor_bytes(file: str) -> int:
        # The load tries the first interpreter with two rows.
        return _litert().tensor_bytes(file) * (options.interpreters + 1)

    return NativeLoader(
        path,
        load,
        # The file, and its weights in the layout of the kernels, for each interpreter.
        ram_per_file_byte=1.2 + options.interpreters,
        other_bytes=tensor_bytes,
    )


def _with_names(path: str, options: LiteRtOptions) -> LiteRtOptions:
    """Add the names of features and classes: those of the manifest of the version, or of the metadata of the file."""
    directory, name = os.path.split(path)
    manifest = read_manifest(directory)
    if manifest is None or name not in manifest.files:
        return replace(options, class_labels=packed_labels(path))
    labels = tuple(map(str, manifest.class_labels)) or packed_labels(path)
    return replace(options, feature_names=manifest.feature_names, class_labels=labels)


def packed_labels(path: str) -> tuple[str, ...]:
    """The labels of the classes in the metadata of a model.

    Tools that write such metadata append an archive to the model. The labels are a text with one label a line, such as
    `labels.txt` or `probability-labels.txt`; further texts have them in other languages, and longer names.

    Args:
        path: The model file.

    Returns:
        The labels; none if there is no such text.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            texts = [
                each
                for each in archive.infolist()
                if "label" in each.filename
                and each.filename.endswith(".txt")
                and each.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            ]
            if not texts:
                return ()
            shortest = min(texts, key=lambda each: (len(each.filename), each.filename))
            with archive.open(shortest) as file:
                data = file.read(MAX_LABEL_BYTES + 1)
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return ()  # the file ends in no archive, or in a damaged one
    if len(data) > MAX_LABEL_BYTES:
        return ()
    return tuple(data.decode(errors="replace").splitlines())


def model_file(files: Collection[str]) -> str | None:
    """The TensorFlow Lite model among the files of a version: `model.tflite`, or the only one."""
    if MODEL_FILE in files:
        return MODEL_FILE
    models = [name for name in files if name.endswith(".tflite") and "/" not in name]
    return models[0] if len(models) == 1 else None


def _open(library: str) -> LiteRt:
    return _litert()(library)


def _litert() -> type[LiteRt]:
    # Only this needs the extension.
    from servable._server.border.gateway import LiteRt

    return LiteRt
