"""`--grpc_channel_arguments`."""

from __future__ import annotations

import pytest

from servable._server.config.grpc_arguments import GrpcOptions, parse_channel_arguments
from servable.errors import ConfigError


def test_arguments_that_mean_something_are_applied_and_the_others_named() -> None:
    options, ignored = parse_channel_arguments(
        "grpc.max_concurrent_streams=7,grpc.so_reuseport=0,grpc.keepalive_time_ms=1500,"
        "grpc.max_receive_message_length=-1,grpc.so_reuseport=1,grpc.default_compression_algorithm=2,"
        "grpc.max_connection_age_ms=2147483647,grpc.optimization_target=latency,word,"
    )
    assert options == GrpcOptions(
        max_concurrent_streams=7, keepalive_time_seconds=1.5, reply_encoding="gzip"
    )
    assert ignored == ("grpc.so_reuseport", "grpc.optimization_target", "word")


def test_text_after_a_second_equals_sign_is_ignored() -> None:
    options, ignored = parse_channel_arguments("grpc.max_metadata_size=8192=9")
    assert (options.max_header_bytes, ignored) == (8192, ())


@pytest.mark.parametrize(("text", "seconds"), [("1000", 1.0), ("2147483647", None)])
def test_the_largest_time_means_never(text: str, seconds: float | None) -> None:
    options, _ = parse_channel_arguments(f"grpc.max_connection_age_ms={text}")
    assert options.max_age_seconds == seconds


@pytest.mark.parametrize(
    "argument",
    [
        "grpc.max_concurrent_streams=many",
        "grpc.max_concurrent_streams=0",
        "grpc.keepalive_time_ms=-5",
        "grpc.default_compression_algorithm=9",
        "grpc.max_metadata_size=99999999999",
    ],
)
def test_values_that_cannot_be_are_refused_with_their_key(argument: str) -> None:
    key, value = argument.split("=")
    with pytest.raises(ConfigError, match=f"{key} cannot be '{value}'"):
        parse_channel_arguments(argument)
