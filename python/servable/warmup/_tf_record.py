"""Uncompressed TFRecord files: each record has its length and a checksum of both.

```
8 bytes  length, little-endian
4 bytes  masked checksum of the length
length   the record
4 bytes  masked checksum of the record
```
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from servable._server.border.gateway import crc32c
from servable.errors import Code, ServableError

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_HEADER_BYTES = _LENGTH.size + _CHECKSUM.size
_BLOCK_BYTES = 1 << 20


def read_records(path: str) -> Iterator[bytes]:
    """Read the records of a file, one after the other.

    Raises:
        ServableError: DATA_LOSS where the file is damaged, with the text of TensorFlow.
        OSError: The file cannot be read.
    """
    with open(path, "rb") as file:
        offset = 0
        # TensorFlow treats a truncated header as the end of the file, too.
        while len(header := file.read(_HEADER_BYTES)) == _HEADER_BYTES:
            length = _checked(header)
            if length is None:
                raise _data_loss(f"corrupted record at {offset} (Is this even a TFRecord file?)")
            data = _read(file, _LENGTH.unpack(length)[0] + _CHECKSUM.size)
            if data is None:
                reason = "failed with Read less bytes than requested"
                raise _data_loss(f"truncated record at {offset}' {reason}")
            record = _checked(data)
            if record is None:
                raise _data_loss(f"corrupted record at {offset + _HEADER_BYTES}")
            yield record
            offset += _HEADER_BYTES + len(data)


def write_records(path: str, records: Iterable[bytes]) -> int:
    """Write a file atomically: readers see the old content or the new one.

    Returns:
        The number of records.

    Raises:
        OSError: The file cannot be written; the old content stays.
    """
    count = 0
    descriptor, aside = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix=".writing-")
    try:
        with open(descriptor, "wb") as file:
            for record in records:
                length = _LENGTH.pack(len(record))
                file.write(length + _masked(length) + record + _masked(record))
                count += 1
            file.flush()
            os.fsync(file.fileno())
            # Temporary files are private; servers must be able to read this one.
            os.fchmod(file.fileno(), 0o644)
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        raise
    return count


def _read(file: BinaryIO, size: int) -> bytes | None:
    """Read up to `size` bytes, in blocks: a claimed length may exceed the file, and must not allocate memory."""
    blocks: list[bytes] = []
    while size > 0:
        block = file.read(min(size, _BLOCK_BYTES))
        if not block:
            return None
        blocks.append(block)
        size -= len(block)
    return b"".join(blocks)


def _checked(data: bytes) -> bytes | None:
    """The data in front of its checksum, if the checksum is right."""
    content, checksum = data[: -_CHECKSUM.size], data[-_CHECKSUM.size :]
    return content if _masked(content) == checksum else None


def _masked(data: bytes) -> bytes:
    """The checksum as it is stored: masked, so that a record may itself be a file with checksums."""
    checksum = crc32c(data)
    return _CHECKSUM.pack(((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _data_loss(message: str) -> ServableError:
    return ServableError(message, code=Code.DATA_LOSS)
