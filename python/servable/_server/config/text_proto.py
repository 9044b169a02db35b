"""Parses the protobuf messages of TensorFlow Serving's configuration.

The descriptors are in a separate pool, so that `tensorflow-serving-api` can be imported together with this package.
`protobuf` itself is imported when the first message is parsed: a server that is started with flags alone does not need
it.
"""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from servable._server.remote.files import read_file
from servable._server.remote.urls import shown
from servable.errors import Code, ConfigError

if TYPE_CHECKING:
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message import Message

_TOKEN = re.compile(
    r"""(?P<skipped> \s+ | \#[^\n]* | [,;:\[\]] )
      | (?P<string> "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' )
      | (?P<open> [{<] ) | (?P<close> [}>] )
      | (?P<word> [^\s\#,;:\[\]{}<>"']+ )""",
    re.VERBOSE | re.DOTALL,
)
_DESCRIPTORS = Path(__file__).with_name("descriptors.bin")


@functools.cache
def _pool() -> DescriptorPool:
    from google.protobuf import descriptor_pb2, descriptor_pool

    pool = descriptor_pool.DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet.FromString(_DESCRIPTORS.read_bytes())
    for file in files.file:
        pool.Add(file)
    return pool


def new_message(full_name: str) -> Message:
    """An empty message of a type, such as `tensorflow.serving.ModelServerConfig`."""
    from google.protobuf import message_factory

    descriptor = _pool().FindMessageTypeByName(full_name)
    return message_factory.GetMessageClass(descriptor)()


class TextFormatError(ConfigError):
    """A text is no valid message of the expected type.

    Attributes:
        line: The place of the error, from 1, if the parser reports it.
        reason: The parser's error.
    """

    def __init__(self, message: str, line: int | None, reason: str) -> None:
        super().__init__(message)
        self.line = line
        self.reason = reason


def parse_text(text: str, full_name: str) -> Message:
    """Parse protobuf's text format.

    Args:
        text: The body of a message.
        full_name: The type of the message.

    Raises:
        TextFormatError: The text does not parse; the message has the place and the reason.
    """
    from google.protobuf import text_format

    message = new_message(full_name)
    try:
        text_format.Parse(text, message, descriptor_pool=_pool())
    except text_format.ParseError as error:
        located, line = _located(error), getattr(error, "GetLine", lambda: None)()
        reason = re.sub(r"^[0-9]+:[0-9]+: ", "", located)
        raise TextFormatError(located, line, reason) from error
    return message


def parse_text_file(path: str, full_name: str) -> Message:
    """Read a file in protobuf's text format.

    Args:
        path: The file, or its URL; it holds the body of the message.
        full_name: The type of the message.

    Raises:
        ConfigError: The file cannot be read or does not parse; file, line, column and reason are written to stderr,
            where TensorFlow Serving writes them.
    """
    content = read_file(path)
    path = shown(path)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"Invalid protobuf file: '{path}'") from error
    if not text:
        # Probably a file that is about to be written; an empty configuration can be written as a comment.
        raise ConfigError(f"Invalid protobuf file: '{path}'")
    try:
        return parse_text(text, full_name)
    except TextFormatError as error:
        print(f"Error parsing text-format {full_name}: {error} (in {path})", file=sys.stderr)
        raise ConfigError(f"Invalid protobuf file: '{path}'") from error


def message_lines(text: str, *path: str) -> list[int]:
    """The lines where messages begin in a valid text.

    Args:
        text: The body of a message in text format.
        path: The names of the fields that lead to the messages.

    Returns:
        The line of each message with that path, from 1, in order.
    """
    lines: list[int] = []
    names: list[str] = []
    name = ""
    line = 1
    for token in _TOKEN.finditer(text):
        if token["word"]:
            name = token["word"]
        elif token["open"]:
            names.append(name)
            if tuple(names) == path:
                lines.append(line)
        elif token["close"] and names:
            # In a list, the name is written once and applies to the following messages, too.
            name = names.pop()
        line += token[0].count("\n")
    return lines


def parse_bytes(data: bytes, full_name: str) -> Message:
    """Parse a serialized message.

    Raises:
        ConfigError: The bytes are no such message.
    """
    from google.protobuf.message import DecodeError

    message = new_message(full_name)
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ConfigError(f"Not a serialized {full_name}", code=Code.INTERNAL) from error
    return message


def _located(error: Exception) -> str:
    line, column = getattr(error, "GetLine", None), getattr(error, "GetColumn", None)
    text = str(error)
    if line is None or column is None or line() is None:
        return text
    # The parser's text may begin with the place, in another notation.
    return f"{line()}:{column()}: {text.removeprefix(f'{line()}:{column()} : ')}"
