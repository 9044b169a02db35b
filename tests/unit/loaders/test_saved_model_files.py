from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from servable.loaders._saved_model_files import (
    NeededFiles,
    needed_files_of,
    read_needed_files,
)
from servable.loaders._wire import CutOffError


class Bytes:
    """A file that records its reads."""

    def __init__(self, content: bytes, size: int | None = None) -> None:
        self.size = len(content) if size is None else size
        self.count = 0
        self._content = content
        self._position = 0

    def read(self, count: int) -> bytes:
        found = self._content[self._position : self._position + count]
        self._position += len(found)
        self.count += len(found)
        return found

    def skip(self, count: int) -> None:
        self._position += count


def field(number: int, *parts: bytes) -> bytes:
    """A length-delimited field of any size."""
    content = b"".join(parts)
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    data = b""
    while value >= 0x80:
        data += bytes([value & 0x7F | 0x80])
        value >>= 7
    return data + bytes([value])


SAVER = field(3, field(1, b"save/Const:0"), b"\x38\x02")
ASSETS_OF_OLD = field(
    4,
    field(1, b"saved_model_assets"),
    field(2, field(5, field(1, field(1, b"type"), field(2, field(2, b"old.txt"))))),
)


def test_a_graph_with_several_meta_graphs_needs_what_any_of_them_does() -> None:
    content = b"\x08\x01" + field(2) + field(2, SAVER, field(6, field(2, b"new.txt")))
    content += field(2, field(4, field(1, b"else"), field(2, b"x")), ASSETS_OF_OLD)
    needed = read_needed_files("saved_model.pb", Bytes(content))
    assert needed == NeededFiles(has_variables=True, assets=frozenset({"new.txt", "old.txt"}))


def test_nodes_are_not_read_however_many_there_are() -> None:
    nodes = 3 << 30
    head = varint(2 << 3 | 2) + varint(nodes + 1000)
    head += varint(2 << 3 | 2) + varint(nodes)
    graph = Bytes(head, size=len(head) + nodes + 1000)
    with pytest.raises(CutOffError):
        read_needed_files("saved_model.pb", graph)
    assert graph.count == len(head)


def test_a_graph_that_ends_at_any_place_before_its_end_is_cut_off(runtime_models: Path) -> None:
    content = (runtime_models / "words/1/saved_model.pb").read_bytes()
    for length in range(len(content)):
        with pytest.raises(CutOffError):
            read_needed_files("saved_model.pb", Bytes(content[:length]))
    needed = read_needed_files("saved_model.pb", Bytes(content))
    assert needed == NeededFiles(assets=frozenset({"vocabulary.txt"}))


@pytest.mark.parametrize("length", [1, 7, 4096])
def test_reserved_room_that_is_not_written_yet_is_cut_off(length: int) -> None:
    with pytest.raises(CutOffError):
        read_needed_files("saved_model.pb", Bytes(bytes(length)))


@pytest.mark.parametrize("content", [b"graph", b"\xff" * 100, field(2, b"\xff" * 20)])
def test_malformed_graphs_are_left_to_the_loader(content: bytes) -> None:
    assert read_needed_files("saved_model.pb", Bytes(content)) is None


def test_no_bytes_make_it_fail_otherwise() -> None:
    content = bytearray(b"\x08\x01" + field(2, SAVER, ASSETS_OF_OLD, field(7, field(1, field(4)))))
    for position in range(len(content)):
        for value in (0, 0x7F, 0xFF):
            damaged = bytearray(content)
            damaged[position] = value
            with contextlib.suppress(CutOffError):
                read_needed_files("saved_model.pb", Bytes(bytes(damaged)))


def test_a_graph_is_read_again_only_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = tmp_path / "saved_model.pb"
    graph.write_bytes(field(2, SAVER))
    assert needed_files_of(str(tmp_path)) == NeededFiles(has_variables=True)
    with monkeypatch.context() as patched:
        patched.setattr("builtins.open", None)
        assert needed_files_of(str(tmp_path)) == NeededFiles(has_variables=True)
    graph.write_bytes(field(2, b""))
    os.utime(graph, (1, 1))
    assert needed_files_of(str(tmp_path)) == NeededFiles()
