"""Opens tables of embeddings."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from servable.errors import Code, LoadError, NotFoundError
from servable.loaders._native import NativeLoader

if TYPE_CHECKING:
    from servable._server.border.gateway import Servable

KEYS_FILE = "keys.txt"
"""The keys of an array, one a line."""

STEM = "embeddings"
"""The name, without its suffix, that makes a file a table."""

ARRAYS = (".npy", ".safetensors")
_SUFFIXES = (*ARRAYS, ".tsv", ".txt", ".vec", ".bin")

_CHOICES = {
    "unknown": ("error", "zeros", "row", "hash"),
    "combiner": ("sum", "mean", "sqrtn"),
    "metric": ("cosine", "dot", "l2"),
    "check_finite": ("when_read", "always", "never"),
    "preload": ("none", "read_ahead", "lock"),
}

_BYTES_PER_KEY_BYTE = 3.0
"""The index of keys, relative to the size of their file: the bytes, and about 16 for each key."""
_RAM_PER_TEXT_BYTE = 1.2
"""Numbers take more bytes as texts than in memory."""


@dataclass(frozen=True, slots=True)
class EmbeddingsOptions:
    """The options of a table.

    Rust reads the fields by name.

    Attributes:
        unknown: What an id or key that is not in the table gets: `error`, `zeros`, `row` or `hash`.
        unknown_row: The row for `row`.
        hash_buckets: For `hash`, the number of rows at the end of the table that unknown ids and keys share.
        combiner: How the rows of a bag are combined: `sum`, `mean` or `sqrtn`.
        metric: What `nearest` compares: `cosine`, `dot` or `l2`.
        neighbours: The number of results of `nearest` for each vector.
        tensor: The name of the table in a safetensors file; empty for the only matrix.
        scales: The name of the tensor with the factors of int8 rows.
        check_finite: Which tables are refused if they have NaN or infinite numbers: `when_read` for texts, which a load
            reads; `always` for arrays, too; `never` for none.
        preload: What is done with a mapped file: `none`, `read_ahead`, or `lock` to keep it in memory.
    """

    unknown: str = "error"
    unknown_row: int = 0
    hash_buckets: int = 0
    combiner: str = "mean"
    metric: str = "cosine"
    neighbours: int = 10
    tensor: str = ""
    scales: str = "scales"
    check_finite: str = "when_read"
    preload: str = "none"

    def __post_init__(self) -> None:
        """Check that the values are known, and fit each other."""
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                wanted = f"want one of {', '.join(choices)}"
                raise ValueError(f'option "{name}": got "{getattr(self, name)}", {wanted}')
        for name, least in (("unknown_row", 0), ("hash_buckets", 0), ("neighbours", 1)):
            if getattr(self, name) < least:
                raise ValueError(
                    f'option "{name}": got {getattr(self, name)}, want {least} or more'
                )
        if (self.unknown == "hash") != (self.hash_buckets > 0):
            found = f'unknown "{self.unknown}" and hash_buckets {self.hash_buckets}'
            raise ValueError(f'got {found}, want unknown "hash" with 1 bucket or more, or neither')
        if self.unknown != "row" and self.unknown_row:
            raise ValueError(f'got unknown_row {self.unknown_row}, want unknown "row" with it')


def named_table(files: Collection[str]) -> str:
    """The only file `embeddings.*` of a known format; empty if there is none, or several."""
    return _only(name for name in files if os.path.splitext(name)[0] == STEM)


def any_table(files: Collection[str]) -> str:
    """The table among files that are known to be one: `embeddings.*`, or the only file of a known format."""
    return named_table(files) or _only(
        name for name in files if "/" not in name and name != KEYS_FILE
    )


def embeddings_loader(
    path: str, options: EmbeddingsOptions, max_run_seconds: float, wanted: str
) -> NativeLoader:
    """The loader of a version directory.

    Args:
        path: The directory.
        options: The options of the model.
        max_run_seconds: The longest run; 0 for no limit (`--max_run_seconds`).
        wanted: What a directory contains, for messages.
    """
    load = partial(_load, options=options, max_run_seconds=max_run_seconds, wanted=wanted)
    return NativeLoader(path, load, ram_per_file_byte=0.0, other_bytes=_estimate)


def _load(path: str, options: EmbeddingsOptions, max_run_seconds: float, wanted: str) -> Servable:
    # Only this needs the extension.
    from servable._server.border.gateway import load_embeddings

    names = _names(path)
    table = any_table(names)
    if not table:
        raise LoadError(f"{path} has no table; {wanted}", code=Code.NOT_FOUND)
    keys = os.path.join(path, KEYS_FILE) if KEYS_FILE in names else None
    file = os.path.join(path, table)
    return load_embeddings(file, keys, options, max_run_seconds=max_run_seconds, in_background=True)


def _estimate(path: str) -> int:
    """The memory of a table: that of its keys, and of its numbers if they are not mapped."""
    names = _names(path)
    table = any_table(names)
    size = 0.0
    try:
        if table and not table.endswith(ARRAYS):
            size += os.path.getsize(os.path.join(path, table)) * _RAM_PER_TEXT_BYTE
        if KEYS_FILE in names:
            size += os.path.getsize(os.path.join(path, KEYS_FILE)) * _BYTES_PER_KEY_BYTE
    except OSError as error:
        raise NotFoundError(f"{error.filename}: {error.strerror}") from error
    return int(size)


def _names(path: str) -> Collection[str]:
    try:
        return os.listdir(path)
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror}") from error


def _only(names: Iterable[str]) -> str:
    found = [name for name in names if name.endswith(_SUFFIXES)]
    return found[0] if len(found) == 1 else ""
