"""What an ONNX model file tells without ONNX Runtime: the files with its weights, and where it comes from.

Field numbers are those of `onnx.proto`. Weights are skipped without being read.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from servable.errors import Code, LoadError
from servable.loaders._wire import (
    CutOffError,
    ForwardFile,
    LocalFile,
    MalformedError,
    MemoryFile,
    Wire,
    identity_of,
)

_LARGEST = {1: 16 << 20, 5: 64 << 10, 15: 64 << 10}
"""The largest parts of a graph that are read, in bytes, by field: a longer tensor contains its weights."""
_MOST_FILES = 10_000
_LARGEST_TEXT = 4096
_MOST_TEXTS = 256
_MAX_DEPTH = 20
"""Graphs in attributes of nodes in graphs."""

_EXTERNAL = 1  # TensorProto.data_location


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """What a model file tells.

    Attributes:
        external_data: The required size in bytes of each file with weights, by its path as the model has it.
        properties: Format, producer, operator sets and metadata, for people.
    """

    external_data: Mapping[str, int] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)

    def files_inside(self) -> Mapping[str, int]:
        """The external data, by normalised path; paths that leave the directory are omitted."""
        inside = {os.path.normpath(path): size for path, size in self.external_data.items()}
        return {path: size for path, size in inside.items() if not _leaves(path)}


def read_local(path: str) -> OnnxFile | None:
    """What a local model file tells; cached while the file is unchanged.

    Returns:
        `None` if it is no model, which ONNX Runtime reports.

    Raises:
        CutOffError: A part of the file is missing.
        OSError: It does not exist, or cannot be read.
    """
    return _read_local(path, identity_of(path))


@functools.lru_cache(maxsize=1024)
def _read_local(path: str, identity: tuple[int, ...]) -> OnnxFile | None:
    del identity  # a part of the key
    with open(path, "rb") as file:
        return read_model(LocalFile(file))


def has_external_data(path: str) -> bool:
    """Whether a local model file and its external data are complete, as far as sizes show."""
    try:
        model = read_local(path)
        directory = os.path.dirname(path)
        return model is None or all(
            os.stat(os.path.join(directory, name)).st_size >= size
            for name, size in model.files_inside().items()
        )
    except (CutOffError, OSError, ValueError):
        return False


def size_of_external_data(path: str) -> int:
    """The size in bytes of the files with external data of a local model file; 0 for those that are missing."""
    total = 0
    try:
        model = read_local(path)
        for name in model.files_inside() if model else ():
            total += os.stat(os.path.join(os.path.dirname(path), name)).st_size
    except (CutOffError, OSError, ValueError):
        pass  # the load reports what is missing
    return total


def require_external_data(path: str) -> None:
    """Refuse a local model whose external data lie elsewhere, or are missing.

    Raises:
        LoadError: A path leaves the directory of the model, or there is no such file.
    """
    try:
        model = read_local(path)
    except (CutOffError, OSError):
        return  # ONNX Runtime reports what is wrong
    directory = os.path.dirname(path)
    inside = os.path.realpath(directory)
    for name, size in (model.external_data if model else {}).items():
        shown = name[:_LARGEST_TEXT]
        if "\0" in name or _leaves(os.path.normpath(name)):
            raise _refused(path, f"external data {shown!r} are outside the directory of the model")
        file = os.path.join(directory, name)
        if os.path.commonpath([inside, os.path.realpath(file)]) != inside:
            raise _refused(
                path, f"external data {shown!r} are a link out of the directory of the model"
            )
        try:
            found = os.stat(file).st_size
        except OSError as error:
            text = f"{path}: external data {shown!r}: {error.strerror}"
            raise LoadError(text, code=Code.NOT_FOUND) from error
        if found < size:
            text = f"{path}: external data {shown!r}: got {found} bytes, want {size}"
            raise LoadError(text, code=Code.DATA_LOSS)


def _refused(path: str, reason: str) -> LoadError:
    return LoadError(f"{path}: {reason}", code=Code.INVALID_ARGUMENT)


def _leaves(path: str) -> bool:
    """Whether a normalised path leaves its directory."""
    return os.path.isabs(path) or path == ".." or path.startswith("../")


def read_model(file: ForwardFile) -> OnnxFile | None:
    """Read a model file.

    Returns:
        `None` if it is no model.

    Raises:
        CutOffError: A part of the file is missing.
        OSError: It cannot be read.
    """
    wire, numbers = Wire(file), dict[int, int]()
    external: dict[str, int] = {}
    texts: dict[int, str] = {}
    opsets: dict[str, int] = {}
    metadata: dict[str, str] = {}
    has_graph = False
    try:
        for number, length in wire.fields(file.size, numbers):
            match number:
                case 2 | 3 | 4 if length <= _LARGEST_TEXT:
                    texts[number] = _text(wire.take(length))
                case 7:
                    has_graph = True
                    _read_graph(wire, length, external, _MAX_DEPTH)
                case 8 if length <= _LARGEST_TEXT and len(opsets) < _MOST_TEXTS:
                    version: dict[int, int] = {}
                    names = [_text(wire.take(n)) for i, n in wire.fields(length, version) if i == 1]
                    opsets["".join(names[-1:]) or "ai.onnx"] = version.get(2, 0)
                case 14 if length <= 2 * _LARGEST_TEXT and len(metadata) < _MOST_TEXTS:
                    key, value = _entry(wire, length)
                    metadata[key] = value
    except MalformedError:
        return None
    if not has_graph:
        raise CutOffError
    found = {
        "format": f"ONNX IR version {numbers[1]}" if 1 in numbers else "",
        "operator sets": ", ".join(f"{name} {version}" for name, version in sorted(opsets.items())),
        "producer": " ".join(filter(None, (texts.get(2), texts.get(3)))),
        "domain": texts.get(4, ""),
        "model version": str(numbers[5]) if numbers.get(5) else "",
    }
    found |= {f"metadata {key}": value for key, value in sorted(metadata.items())}
    return OnnxFile(external, {name: text for name, text in found.items() if text})


def _read_graph(wire: Wire, length: int, external: dict[str, int], depth: int) -> None:
    """Collect the external data of a GraphProto."""
    for number, size in wire.fields(length):
        largest = _LARGEST.get(number, 0)
        if size > largest:
            continue
        message = wire.take(size)
        if b"location" not in message:
            continue
        part = Wire(MemoryFile(message))
        try:
            match number:
                case 1:  # node
                    _read_node(part, size, external, depth)
                case 5:  # initializer
                    _read_tensor(part, size, external)
                case 15:  # sparse_initializer
                    _read_sparse_tensor(part, size, external)
        except CutOffError as error:
            raise MalformedError from error


def _read_node(wire: Wire, length: int, external: dict[str, int], depth: int) -> None:
    if depth == 0:
        raise MalformedError
    for number, size in wire.fields(length):
        if number != 5:  # attribute
            continue
        for part, part_size in wire.fields(size):
            match part:
                case 5 | 10:
                    _read_tensor(wire, part_size, external)
                case 6 | 11:
                    _read_graph(wire, part_size, external, depth - 1)
                case 22 | 23:
                    _read_sparse_tensor(wire, part_size, external)


def _read_sparse_tensor(wire: Wire, length: int, external: dict[str, int]) -> None:
    for part, size in wire.fields(length):
        if part in (1, 2):  # values, indices
            _read_tensor(wire, size, external)


def _read_tensor(wire: Wire, length: int, external: dict[str, int]) -> None:
    numbers: dict[int, int] = {}
    entries: dict[str, str] = {}
    for number, size in wire.fields(length, numbers):
        if number == 13 and size <= 2 * _LARGEST_TEXT:
            key, value = _entry(wire, size)
            entries[key] = value
    location = entries.get("location")
    if numbers.get(14) == _EXTERNAL and location:
        if len(external) >= _MOST_FILES:
            raise MalformedError
        end = sum(_bytes(entries.get(name, "")) for name in ("offset", "length"))
        external[location] = max(external.get(location, 0), end)


def _entry(wire: Wire, length: int) -> tuple[str, str]:
    """A StringStringEntryProto."""
    texts = {number: wire.take(size) for number, size in wire.fields(length) if number in (1, 2)}
    return _text(texts.get(1, b"")), _text(texts.get(2, b""))


def _bytes(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def _text(data: bytes) -> str:
    return os.fsdecode(data)
