"""Protobuf messages in files that may have gigabytes: read forwards, in parts, also while they are being written."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import BinaryIO, Protocol

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5


class ForwardFile(Protocol):
    """A file that is read forwards, once.

    Attributes:
        size: The size in bytes, if it is known.
    """

    @property
    def size(self) -> int | None:
        """See the class."""

    def read(self, count: int, /) -> bytes:
        """The next bytes; fewer only at the end of the file."""

    def skip(self, count: int, /) -> None:
        """Skip bytes, also beyond the end."""


class CutOffError(Exception):
    """A file is truncated: the rest is still to be written."""


class MalformedError(Exception):
    """The bytes are no message."""


def identity_of(path: str) -> tuple[int, ...]:
    """A key that differs after the file has changed.

    Raises:
        OSError: It does not exist, or cannot be inspected.
    """
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


class LocalFile:
    """A local file, as a `ForwardFile`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size: int | None = os.fstat(file.fileno()).st_size

    def read(self, count: int) -> bytes:
        return self._file.read(count)

    def skip(self, count: int) -> None:
        self._file.seek(count, os.SEEK_CUR)


class MemoryFile:
    """Bytes, as a `ForwardFile`."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)
        self.size: int | None = len(content)

    def read(self, count: int) -> bytes:
        return self._file.read(count)

    def skip(self, count: int) -> None:
        self._file.seek(count, os.SEEK_CUR)


class Wire:
    """The fields of messages in a file."""

    def __init__(self, file: ForwardFile) -> None:
        self._file = file
        self._position = 0

    def fields(
        self, length: int | None, numbers: dict[int, int] | None = None
    ) -> Iterator[tuple[int, int]]:
        """The length-delimited fields of the message at this position.

        Unread content of a field is skipped.

        Args:
            length: The length of the message; `None` if it extends to the end of the file.
            numbers: Receives the last value of each varint field, by the number of the field.

        Yields:
            The number and the length of each field.

        Raises:
            CutOffError: The file ends within a field.
            MalformedError: This is no message.
        """
        end = None if length is None else self._position + length
        while end is None or self._position < end:
            tag = self._varint(may_end=end is None)
            if tag is None:
                return
            number, kind = tag >> 3, tag & 7
            if tag == 0:
                raise CutOffError  # space that was reserved for the file is filled with zeros
            if kind == _BYTES:
                size = self._varint() or 0
                next_field = self._position + size
                if self._file.size is not None and next_field > self._file.size:
                    raise CutOffError
                yield number, size
                self._skip(next_field - self._position)
            elif kind == _VARINT:
                value = self._varint() or 0
                if numbers is not None:
                    numbers[number] = value
            elif kind in (_FIXED_64, _FIXED_32):
                self._skip(8 if kind == _FIXED_64 else 4)
            else:
                raise MalformedError

    def take(self, length: int) -> bytes:
        """The content of a field."""
        content = self._file.read(length)
        self._position += len(content)
        if len(content) < length:
            raise CutOffError
        return content

    def _skip(self, count: int) -> None:
        if count < 0:
            raise MalformedError  # a field was longer than its message
        if count:
            self._file.skip(count)
            self._position += count

    def _varint(self, *, may_end: bool = False) -> int | None:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._file.read(1)
            if not byte:
                if may_end and shift == 0:
                    return None
                raise CutOffError
            self._position += 1
            value |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                return value
        raise MalformedError
