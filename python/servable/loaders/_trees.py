"""What crosses the border for models of boosted trees."""

from __future__ import annotations

import os
from dataclasses import dataclass

from servable.loaders._manifest import read_manifest


@dataclass(frozen=True, slots=True)
class TreeOptions:
    """How a model of boosted trees is run.

    Rust reads the fields by name.

    Attributes:
        threads: The maximum number of threads for one batch.
        rows_per_thread: The minimum number of rows of a batch for each thread.
        max_run_seconds: The longest run; 0 for no limit (`--max_run_seconds`).
        feature_names: The names of the features in order, for models that carry none.
        class_labels: The labels of the classes in order, all of one type; empty for their positions.
    """

    threads: int = 1
    rows_per_thread: int = 1024
    max_run_seconds: float = 0.0
    feature_names: tuple[str, ...] = ()
    class_labels: tuple[int, ...] | tuple[str, ...] = ()


def tree_options(
    path: str, threads: int, rows_per_thread: int, max_run_seconds: float
) -> TreeOptions:
    """The options of a version, with the names and labels of its manifest.

    Args:
        path: The version directory, or its single file.
        threads: See `TreeOptions`.
        rows_per_thread: See `TreeOptions`.
        max_run_seconds: See `TreeOptions`.

    Raises:
        LoadError: The manifest is damaged.
    """
    manifest = read_manifest(path) if os.path.isdir(path) else None
    if manifest is None:
        return TreeOptions(threads, rows_per_thread, max_run_seconds)
    labels = manifest.class_labels
    are_numbers = all(type(label) is int for label in labels)
    return TreeOptions(
        threads,
        rows_per_thread,
        max_run_seconds,
        manifest.feature_names,
        tuple(int(label) for label in labels)
        if are_numbers
        else tuple(str(label) for label in labels),
    )
