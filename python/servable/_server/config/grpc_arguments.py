"""Parses `--grpc_channel_arguments`: settings of gRPC's C++ library, as far as they apply to this server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from servable.errors import ConfigError

_MIN_FRAME_BYTES, _MAX_FRAME_BYTES = 1 << 14, (1 << 24) - 1
_INT32_MAX = 2**31 - 1
_ENCODINGS = {0: "", 1: "deflate", 2: "gzip"}
"""The numbers of `grpc_compression_algorithm`."""


@dataclass(frozen=True, slots=True)
class GrpcOptions:
    """Options of gRPC calls and of HTTP/2 connections. Rust reads the fields by name.

    Attributes:
        health_service: Answer `grpc.health.v1.Health` (`--enable_grpc_healthcheck_service`).
        max_receive_message_bytes: The maximum size of a received message; `None` for `max_body_bytes`.
        max_send_message_bytes: The maximum size of a sent message; `None` for no limit.
        reply_encoding: `gzip` or `deflate` compresses replies to clients that accept it.
        max_concurrent_streams: The maximum number of concurrent calls on a connection; `None` for the default.
        max_header_bytes: The maximum size of a call's metadata; `None` for a multiple of `max_header_bytes`.
        max_frame_bytes: The maximum size of a received frame; `None` for the default.
        stream_window_bytes: The flow-control window of a stream.
        keepalive_time_seconds: A connection without traffic for this long is pinged.
        keepalive_timeout_seconds: How long the client may take to answer a ping.
        max_idle_seconds: A connection without calls for this long is closed; other limits may close it earlier.
        max_age_seconds: The age at which a connection accepts no new calls; `None` for never.
        max_age_grace_seconds: How long its calls may take after that; `None` for no limit.
    """

    health_service: bool = False
    max_receive_message_bytes: int | None = None
    max_send_message_bytes: int | None = None
    reply_encoding: str = ""
    max_concurrent_streams: int | None = None
    max_header_bytes: int | None = None
    max_frame_bytes: int | None = None
    stream_window_bytes: int = 1 << 20
    keepalive_time_seconds: float = 7200.0
    keepalive_timeout_seconds: float = 20.0
    max_idle_seconds: float | None = None
    max_age_seconds: float | None = None
    max_age_grace_seconds: float | None = None


def parse_channel_arguments(text: str) -> tuple[GrpcOptions, tuple[str, ...]]:
    """Parse arguments as TensorFlow Serving does: `key=value,key=value`.

    Returns:
        The options, and the keys without effect here, each once.

    Raises:
        ConfigError: A supported key has an invalid value.
    """
    values: dict[str, Any] = {}
    ignored: list[str] = []
    for piece in filter(None, text.split(",")):
        key, *rest = piece.split("=")
        field, read = _FIELDS.get(key, (None, _count))
        if field is None or not rest:
            ignored.append(key)
            continue
        try:
            values[field] = read(int(rest[0]))
        except (ValueError, KeyError):
            raise ConfigError(f"--grpc_channel_arguments: {key} cannot be {rest[0]!r}") from None
    return GrpcOptions(**values), tuple(dict.fromkeys(ignored))


def _count(value: int) -> int:
    if not 0 < value <= _INT32_MAX:
        raise ValueError
    return value


def _size(value: int) -> int | None:
    """A size in bytes; -1 means no limit."""
    return None if value == -1 else _count(value)


def _frame(value: int) -> int:
    return max(_MIN_FRAME_BYTES, min(_count(value), _MAX_FRAME_BYTES))


def _seconds(value: int) -> float:
    return _count(value) / 1000


def _seconds_or_never(value: int) -> float | None:
    """A time in milliseconds; gRPC uses the largest integer for never."""
    return None if value == _INT32_MAX else _seconds(value)


_FIELDS: Mapping[str, tuple[str, Callable[[int], object]]] = {
    "grpc.max_receive_message_length": ("max_receive_message_bytes", _size),
    "grpc.max_message_length": ("max_receive_message_bytes", _size),  # the former name
    "grpc.max_send_message_length": ("max_send_message_bytes", _size),
    "grpc.default_compression_algorithm": ("reply_encoding", lambda number: _ENCODINGS[number]),
    "grpc.max_concurrent_streams": ("max_concurrent_streams", _count),
    "grpc.max_metadata_size": ("max_header_bytes", _count),
    "grpc.http2.max_frame_size": ("max_frame_bytes", _frame),
    "grpc.http2.lookahead_bytes": ("stream_window_bytes", _count),
    "grpc.keepalive_time_ms": ("keepalive_time_seconds", _seconds),
    "grpc.keepalive_timeout_ms": ("keepalive_timeout_seconds", _seconds),
    "grpc.max_connection_idle_ms": ("max_idle_seconds", _seconds_or_never),
    "grpc.max_connection_age_ms": ("max_age_seconds", _seconds_or_never),
    "grpc.max_connection_age_grace_ms": ("max_age_grace_seconds", _seconds_or_never),
}
