"""The parts of protobuf's wire format that tensors need.

A message class would copy the content of a tensor into its memory, and once more when it is serialized. Here the
content is copied once, into the request; decoding gives a view of the answer.
"""

from __future__ import annotations

from collections.abc import Iterator

from servable.errors import BackendError

Piece = bytes | memoryview
"""A part of a message that is to be joined."""

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5


def varint(number: int) -> bytes:
    """Encode a number from 0 to 2**64 - 1."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def number_field(field: int, number: int) -> bytes:
    """A field with a number."""
    return varint(field << 3 | VARINT) + varint(number)


def header(field: int, length: int) -> bytes:
    """The header of a field with bytes, a string or a message."""
    return varint(field << 3 | LENGTH_DELIMITED) + varint(length)


def bytes_field(field: int, content: bytes) -> bytes:
    """A field with bytes, a string or a message."""
    return header(field, len(content)) + content


def message_field(field: int, pieces: list[Piece]) -> list[Piece]:
    """A field with a message whose pieces are not yet joined."""
    return [header(field, sum(map(len, pieces))), *pieces]


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message in order: numbers of varint fields, views of all others.

    Raises:
        BackendError: The bytes are no message.
    """
    position = 0
    while position < len(message):
        tag, position = read_varint(message, position)
        kind = tag & 7
        if kind == VARINT:
            number, position = read_varint(message, position)
            yield tag >> 3, number
            continue
        if kind == LENGTH_DELIMITED:
            length, position = read_varint(message, position)
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise BackendError(f"the answer is no protobuf message: wire type {kind}")
        end = position + length
        if end > len(message):
            raise BackendError("the answer is no protobuf message: it ends within a field")
        yield tag >> 3, message[position:end]
        position = end


def read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """The number at a position, and the position after it.

    Raises:
        BackendError: There is none.
    """
    number = 0
    for shift in range(0, 70, 7):
        if position == len(message):
            raise BackendError("the answer is no protobuf message: it ends within a number")
        byte = message[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & (2**64 - 1), position
    raise BackendError("the answer is no protobuf message: a number has more than ten bytes")
