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
        private.Add(file)
    return private


@functools.cache
def message_class(name: str) -> Any:
    """The class of a message, such as `tensorflow.serving.ModelSpec`.

    Its attributes are made at run time, so that type checkers cannot know them.
    """
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(pool().FindMessageTypeByName(name))
