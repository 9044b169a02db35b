"""The content of `grpc-status-details-bin`: `google.rpc.Status`, decoded as any gRPC client would.

The definitions are the needed parts of googleapis; the package with all of them is not a requirement of ours.
"""

from __future__ import annotations

from google.protobuf import any_pb2, descriptor_pb2, duration_pb2, text_format

from support.grpc_definitions import Definitions

_FILE = """
name: "google/rpc/status.proto" package: "google.rpc" syntax: "proto3"
dependency: ["google/protobuf/any.proto", "google/protobuf/duration.proto"]
message_type {
  name: "Status"
  field { name: "code" number: 1 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "message" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
  field {
    name: "details" number: 3 type: TYPE_MESSAGE label: LABEL_REPEATED type_name: ".google.protobuf.Any"
  }
}
message_type {
  name: "RetryInfo"
  field {
    name: "retry_delay" number: 1 type: TYPE_MESSAGE label: LABEL_OPTIONAL type_name: ".google.protobuf.Duration"
  }
}
"""


def retry_seconds(details: bytes) -> tuple[int, str, float]:
    """The code and the message of a status, and its retry delay.

    The status must have a delay, and nothing else.
    """
    file = text_format.Parse(_FILE, descriptor_pb2.FileDescriptorProto())
    definitions = Definitions(
        [
            any_pb2.DESCRIPTOR.serialized_pb,
            duration_pb2.DESCRIPTOR.serialized_pb,
            file.SerializeToString(),
        ]
    )
    status = definitions.message("google.rpc.Status").FromString(details)
    (detail,) = status.details
    assert detail.type_url == "type.googleapis.com/google.rpc.RetryInfo"
    delay = definitions.message("google.rpc.RetryInfo").FromString(detail.value).retry_delay
    return status.code, status.message, delay.seconds + delay.nanos / 1e9
