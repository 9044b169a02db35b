"""The files that a SavedModel's graph needs, from the graph itself.

A graph may have two gigabytes, and is inspected while it is being written. `saved_model.pb` is therefore not parsed:
its wire format is read forwards, and irrelevant parts, such as the nodes of the graph, are skipped without being read.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from servable._server.config.text_proto import new_message
from servable.loaders._wire import (
    CutOffError,
    ForwardFile,
    LocalFile,
    MalformedError,
    Wire,
    identity_of,
)

GRAPH, TEXT_GRAPH = "saved_model.pb", "saved_model.pbtxt"

_MAX_NAME_BYTES = 4096
_MAX_TEXT_BYTES = 64 << 20
_MAX_OBJECTS = 100_000
_ASSETS_COLLECTION = b"saved_model_assets"


@dataclass(frozen=True, slots=True)
class NeededFiles:
    """The files of a graph.

    Attributes:
        has_variables: Whether variables are restored when it is loaded.
        assets: The names of the files in `assets`.
    """

    has_variables: bool = False
    assets: frozenset[str] = frozenset()


def needed_files_of(directory: str) -> NeededFiles | None:
    """The files that the graph in a local directory needs; cached while the file is unchanged.

    Returns:
        `None` if the file is no graph, which its loader reports.

    Raises:
        CutOffError: A part of the graph is missing.
        OSError: The file does not exist, or cannot be read.
    """
    path = os.path.join(directory, GRAPH)
    try:
        identity = identity_of(path)
    except FileNotFoundError:
        path = os.path.join(directory, TEXT_GRAPH)
        identity = identity_of(path)
    return _needed_files_at(path, identity)


@functools.lru_cache(maxsize=4096)
def _needed_files_at(path: str, identity: tuple[int, ...]) -> NeededFiles | None:
    del identity  # a part of the key
    with open(path, "rb") as file:
        return read_needed_files(os.path.basename(path), LocalFile(file))


def read_needed_files(name: str, file: ForwardFile) -> NeededFiles | None:
    """The files that a graph needs.

    Args:
        name: The name of the graph's file, which determines the format.
        file: Its content.

    Returns:
        `None` if it is no graph, or text of more than 64 MiB.

    Raises:
        CutOffError: A part of it is missing.
        OSError: It cannot be read.
    """
    if name == TEXT_GRAPH:
        text = file.read(_MAX_TEXT_BYTES + 1)
        return None if len(text) > _MAX_TEXT_BYTES else _read_text(text)
    wire = Wire(file)
    needed = []
    try:
        for number, length in wire.fields(file.size):
            if number == 2:  # SavedModel.meta_graphs
                needed.append(_read_meta_graph(wire, length))
    except MalformedError:
        return None
    if not needed:
        raise CutOffError
    return NeededFiles(
        any(graph.has_variables for graph in needed),
        frozenset[str]().union(*(graph.assets for graph in needed)),
    )


def _read_meta_graph(wire: Wire, length: int) -> NeededFiles:
    has_saver, restores_objects = False, None
    assets: set[str] = set()
    for number, size in wire.fields(length):
        match number:
            case 3:  # MetaGraphDef.saver_def, its filename_tensor_name
                has_saver = any(field == 1 and size > 0 for field, size in wire.fields(size))
            case 4:  # collection_def: where assets were before asset_file_def
                assets.update(_read_collection(wire, size))
            case 6:  # asset_file_def
                assets.update(_read_asset(wire, size))
            case 7 if size > 0:  # object_graph_def, which models of TensorFlow 2 have
                restores_objects = _restores_objects(wire, size)
    # TensorFlow 2 writes a saver for models without variables, too.
    return NeededFiles(
        has_saver if restores_objects is None else restores_objects, frozenset(assets)
    )


def _read_asset(wire: Wire, length: int) -> Iterator[str]:
    """The filename of an AssetFileDef."""
    for number, size in wire.fields(length):
        if number == 2 and 0 < size <= _MAX_NAME_BYTES:
            yield os.fsdecode(wire.take(size))


def _read_collection(wire: Wire, length: int) -> Iterator[str]:
    """The filenames in an entry of collection_def: key, value.any_list.value.value."""
    key = b""
    for number, size in wire.fields(length):
        if number == 1 and size <= _MAX_NAME_BYTES:
            key = wire.take(size)
        elif number == 2 and key == _ASSETS_COLLECTION:
            for kind, list_size in wire.fields(size):
                if kind != 5:
                    continue
                for _, any_size in wire.fields(list_size):
                    for part, part_size in wire.fields(any_size):
                        if part == 2:
                            yield from _read_asset(wire, part_size)


def _restores_objects(wire: Wire, length: int) -> bool:
    """Whether an object of a SavedObjectGraph is restored from the files of variables."""
    count = 0
    for number, size in wire.fields(length):
        if number != 1:
            continue
        count += 1
        # variable, saveable_objects, registered_saver
        if count > _MAX_OBJECTS or any(field in (7, 11, 16) for field, _ in wire.fields(size)):
            return True
    return False


def _read_text(text: bytes) -> NeededFiles:
    from google.protobuf import text_format

    view: Any = new_message("servable.SavedModelView")
    try:
        text_format.Parse(text, view, allow_unknown_field=True)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise CutOffError from error
    if not view.meta_graphs:
        raise CutOffError
    return NeededFiles(
        any(map(_view_has_variables, view.meta_graphs)),
        frozenset(asset.filename for graph in view.meta_graphs for asset in graph.asset_file_def),
    )


def _view_has_variables(graph: Any) -> bool:
    if not graph.HasField("object_graph_def"):
        return bool(graph.saver_def.filename_tensor_name)
    return any(
        node.HasField("variable") or node.saveable_objects or node.HasField("registered_saver")
        for node in graph.object_graph_def.nodes
    )
