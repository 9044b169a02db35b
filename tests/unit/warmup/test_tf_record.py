from __future__ import annotations

import struct
from pathlib import Path

import pytest

from servable.errors import Code, ServableError
from servable.warmup import read_records, write_records

# The output of TensorFlow's TFRecordWriter for b"hello".
HELLO = bytes.fromhex("0500000000000000eab2043e68656c6c6fbb1f1c19")
RECORDS = [b"hello", b"", b"world" * 10]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "records"
    assert write_records(str(path), RECORDS) == len(RECORDS)
    return path


def test_records_are_written_as_tensorflow_writes_them(tmp_path: Path) -> None:
    write_records(str(tmp_path / "records"), [b"hello"])
    assert (tmp_path / "records").read_bytes() == HELLO


def test_writing_and_reading_is_the_identity(file: Path) -> None:
    assert list(read_records(str(file))) == RECORDS


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    (tmp_path / "records").write_bytes(b"")
    assert list(read_records(str(tmp_path / "records"))) == []


@pytest.mark.parametrize("position", range(len(HELLO)))
def test_any_byte_that_changes_is_noticed(tmp_path: Path, position: int) -> None:
    damaged = bytearray(HELLO)
    damaged[position] ^= 0x10
    (tmp_path / "records").write_bytes(damaged)
    expected = (
        "corrupted record at 0 (Is this even a TFRecord file?)"
        if position < 12
        else "corrupted record at 12"
    )
    with pytest.raises(ServableError) as caught:
        list(read_records(str(tmp_path / "records")))
    assert (caught.value.code, caught.value.message) == (Code.DATA_LOSS, expected)


def test_a_file_that_is_cut_off_is_noticed_within_a_record(tmp_path: Path) -> None:
    path = tmp_path / "records"
    for length in range(len(HELLO)):
        path.write_bytes(HELLO + HELLO[:length])
        records = read_records(str(path))
        assert next(records) == b"hello"
        if length < 12:  # as TensorFlow does
            assert list(records) == []
        else:
            with pytest.raises(ServableError) as caught:
                list(records)
            text = "truncated record at 21' failed with Read less bytes than requested"
            assert (caught.value.code, caught.value.message) == (Code.DATA_LOSS, text)


def test_a_length_that_lies_takes_no_memory(tmp_path: Path) -> None:
    # The checksum of the length is right.
    header = struct.pack("<Q", 1 << 60)
    path = tmp_path / "records"
    write_records(str(path), [header])
    checksum = path.read_bytes()[-4:]
    path.write_bytes(header + checksum + b"not that much")
    with pytest.raises(ServableError, match="truncated record at 0"):
        list(read_records(str(path)))


def test_a_write_that_fails_leaves_what_was_there(file: Path) -> None:
    def records() -> list[bytes]:
        raise ZeroDivisionError

    before = file.read_bytes()
    with pytest.raises(ZeroDivisionError):
        write_records(str(file), (record for _ in [0] for record in records()))
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["records"]
