"""Lookup tables from strings to vectors.

A version directory contains `table.tsv`: in each line a key and the elements of its vector, separated by tabs. Keys may
contain all bytes except tabs and line ends; all vectors have the same length.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from servable.errors import Code, InvalidInputError, LoadError, ServableError
from servable.lifecycle import Loader, ServableId
from servable.loaders import FunctionLoader
from servable.platforms import (
    Platform,
    PlatformContext,
    SignatureDescription,
    VersionDirectory,
    declared_signatures,
)
from servable.signature import DEFAULT_SIGNATURE, Signature, TensorSpec

TABLE_FILE = "table.tsv"


class HashMapPlatform(Platform):
    """Keeps tables in memory."""

    contents = f"a lookup table is {TABLE_FILE}"

    def recognises(self, files: Collection[str]) -> bool:
        """Whether there is a table."""
        return TABLE_FILE in files

    def describe(self, directory: str) -> Mapping[str, SignatureDescription]:
        """Read the table, whose lines determine the length of the vectors."""
        return declared_signatures(Table(Path(directory)).signatures)

    def make_loader(self, servable_id: ServableId, directory: VersionDirectory) -> Loader:
        """Read the table."""
        return self.completed(FunctionLoader(servable_id, directory.path, Table), directory)


class Table:
    """An open table; see `servable.loaders.FunctionModel`."""

    is_repeatable = True

    def __init__(self, directory: Path) -> None:
        """Read `table.tsv` of a version directory.

        Raises:
            LoadError: It cannot be read; for an invalid line, the message begins with its place.
        """
        import numpy as np

        path = directory / TABLE_FILE
        self._rows: dict[bytes, int] = {}
        vectors: list[Any] = []
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    key, *elements = line.rstrip(b"\r\n").split(b"\t")
                    place = f"{path}:{number}"
                    if not elements:
                        raise _wrong(f"{place}: got no tab, want a key, a tab and numbers")
                    if vectors and len(elements) != len(vectors[0]):
                        wanted = f"want {len(vectors[0])} as in line 1"
                        raise _wrong(f"{place}: got {len(elements)} numbers, {wanted}")
                    if key in self._rows:
                        line_before = self._rows[key] + 1
                        raise _wrong(f"{place}: got key {_shown(key)} of line {line_before} again")
                    vectors.append(np.array([_number(each, place) for each in elements], "float32"))
                    self._rows[key] = number - 1
        except OSError as error:
            raise LoadError(f"{path}: {error.strerror}", code=Code.NOT_FOUND) from error
        if not vectors:
            raise _wrong(f"{path}:1: got an empty file, want at least one line")
        self._vectors = np.stack(vectors)
        keys, values = TensorSpec("bytes", [None]), TensorSpec("float32", [None, len(vectors[0])])
        self.signatures = {DEFAULT_SIGNATURE: Signature({"keys": keys}, {"values": values})}

    def run(self, signature_name: str, inputs: Mapping[str, Any], deadline: float) -> Any:
        """Look keys up."""
        del signature_name, deadline
        keys = inputs["keys"].tolist()
        unknown = next((key for key in keys if key not in self._rows), None)
        if unknown is not None:
            raise InvalidInputError(f'input "keys": there is no key {_shown(unknown)} in the table')
        return {"values": self._vectors[[self._rows[key] for key in keys]]}

    def close(self) -> None:
        """Leave the memory to the garbage collector."""


def platforms(context: PlatformContext) -> Iterator[Platform]:
    """The only platform of lookup tables."""
    yield HashMapPlatform("hash_map", context)


def _number(text: bytes, place: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _wrong(f"{place}: got {_shown(text)}, want a number") from None


def _wrong(message: str) -> ServableError:
    return LoadError(message, code=Code.DATA_LOSS, may_pass=False)


def _shown(text: bytes) -> str:
    return '"' + text[:100].decode(errors="backslashreplace") + '"'
