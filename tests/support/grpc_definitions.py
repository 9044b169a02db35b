"""The messages and methods of the served definitions, for grpcio without generated stubs.

They come from the server's reflection service, in a separate descriptor pool.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

DESCRIPTORS = (
    Path(__file__).resolve().parents[2] / "crates/server/src/protocol/tfs_grpc/descriptors.bin"
)


class Definitions:
    """Messages by their full names, and methods of a channel."""

    def __init__(self, files: Iterable[bytes]) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        waiting = {f.name: f for f in map(descriptor_pb2.FileDescriptorProto.FromString, files)}
        while waiting:  # a file may come before its imports
            for name, file in list(waiting.items()):
                if not waiting.keys() & set(file.dependency):
                    self._pool.Add(waiting.pop(name))

    @classmethod
    def of_this_build(cls) -> Definitions:
        """The definitions that the generator has written."""
        files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file
        return cls(file.SerializeToString() for file in files)

    def message(self, name: str) -> Any:
        """The class of a message."""
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(name))

    def call(self, channel: grpc.Channel, name: str) -> Any:
        """A method such as `grpc.health.v1.Health.Check`, in the form of grpcio's stubs."""
        method = self._pool.FindMethodByName(name)
        kinds = {False: "unary", True: "stream"}
        kind = f"{kinds[method.client_streaming]}_{kinds[method.server_streaming]}"
        return getattr(channel, kind)(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=message_factory.GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
