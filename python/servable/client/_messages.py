"""The protobuf messages of TensorFlow Serving's API, in a separate descriptor pool.

`tensorflow-serving-api` registers messages of the same names in protobuf's default pool. With separate pools both can
be imported in one process, in any order.
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
    """The descriptor pool of the messages."""
    from google.protobuf import descriptor_pb2, descriptor_pool

    files = descriptor_pb2.FileDescriptorSet.FromString(_DESCRIPTORS.read_bytes())
    private = descriptor_pool.DescriptorPool()
    for file in files.file:
        _take_labels_as_bytes(file)
        private.Add(file)
    return private


def _take_labels_as_bytes(file: Any) -> None:
    """Declare labels of classes as bytes, which are the same on the wire.

    Labels come from the model and may be any bytes. Python's protobuf refuses a whole message if a string in it is no
    UTF-8.
    """
    for message in file.message_type:
        if (file.package, message.name) == ("tensorflow.serving", "Class"):
            for field in message.field:
                if field.type == field.TYPE_STRING:
                    field.type = field.TYPE_BYTES


@functools.cache
def message_class(name: str) -> Any:
    """The class of a message, such as `tensorflow.serving.ModelSpec`.

    Its attributes are created at run time, so type checkers cannot know them.
    """
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(pool().FindMessageTypeByName(name))
