"""The protobuf messages of TensorFlow Serving's API, in a descriptor pool of their own.

`tensorflow-serving-api` registers messages of the same names in protobuf's default pool. Because
ours are not there, both can be imported in one process, in any order.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.descriptor_pool import DescriptorPool

_DESCRIPTORS = Path(__file__).with_name("descriptors.bin")


@functools.cache
def pool() -> DescriptorPool:
    """The pool that the messages live in."""
    from google.protobuf import descriptor_pb2, descriptor_pool

    files = descriptor_pb2.FileDescriptorSet.FromString(_DESCRIPTORS.read_bytes())
    private = descriptor_pool.DescriptorPool()
    for file in files.file:
        _take_labels_as_bytes(file)
        private.Add(file)
    return private


def _take_labels_as_bytes(file: Any) -> None:
    """Let labels of classes be bytes, which are the same on the wire.

    They come from the model, which may have any bytes there, and Python's protobuf refuses whole
    messages for text that is no UTF-8.
    """
    for message in file.message_type:
        if (file.package, message.name) == ("tensorflow.serving", "Class"):
            for field in message.field:
                if field.type == field.TYPE_STRING:
                    field.type = field.TYPE_BYTES


@functools.cache
def message_class(name: str) -> Any:
    """The class of a message, such as `tensorflow.serving.ModelSpec`.

    Its attributes are made at run time, so that type checkers cannot know them.
    """
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(pool().FindMessageTypeByName(name))
