"""What crosses the border for models of boosted trees."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TreeOptions:
    """How a model of boosted trees is run.

    Rust reads the fields by name.

    Attributes:
        threads: The maximum number of threads for one batch.
        rows_per_thread: The minimum number of rows of a batch for each thread.
        class_labels: The labels of the classes in order, all of one type; empty for their positions.
    """

    threads: int = 1
    rows_per_thread: int = 1024
    class_labels: tuple[int, ...] | tuple[str, ...] = ()
