"""gRPC by grpcio, the implementation that the servers' official clients use."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from servable.client._exchange import Request
from servable.client._options import Address, Tls
from servable.errors import ServableError, from_code

try:
    import grpc
except ImportError as error:
    raise ImportError(
        "gRPC needs the package grpcio; install it with `pip install 'servable[client]'`, "
        "or use an address that begins with http://"
    ) from error

Metadata = Sequence[tuple[str, str]]

_NO_LIMIT = -1
_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", _NO_LIMIT),
    ("grpc.max_send_message_length", _NO_LIMIT),
    # The longest pause between attempts to reconnect. By default it grows to two minutes, however often a call is
    # retried meanwhile.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class GrpcTransport:
    """A channel whose calls block."""

    def __init__(self, address: Address, tls: Tls, headers: Metadata) -> None:
        """Describe the channel; it connects with the first call."""
        options = _options(tls)
        self._metadata = headers
        if address.is_secure:
            credentials = _credentials(tls)
            self._channel = grpc.secure_channel(address.authority, credentials, options)
        else:
            self._channel = grpc.insecure_channel(address.authority, options)
        # Creating the callable of a method takes longer than many a call.
        self._method: Callable[[str], Any] = functools.cache(self._channel.unary_unary)

    async def send(self, request: Request, timeout_seconds: float | None) -> bytes:
        """Call a method, and wait for its answer."""
        try:
            answer: bytes = self._method(request.path)(
                request.body, timeout=timeout_seconds, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise _translated(error) from error
        return answer

    async def sleep(self, seconds: float) -> None:
        """Block."""
        time.sleep(seconds)

    async def close(self) -> None:
        """Close the channel; pending calls fail."""
        self._channel.close()


class AsyncGrpcTransport:
    """A channel for one event loop."""

    def __init__(self, address: Address, tls: Tls, headers: Metadata) -> None:
        """Describe the channel; the first call opens it, when there is an event loop."""
        self._address = address
        self._tls = tls
        self._metadata = tuple(headers)
        self._made: Any = None

    async def send(self, request: Request, timeout_seconds: float | None) -> bytes:
        """Call a method, and wait for its answer."""
        try:
            answer: bytes = await self._channel().unary_unary(request.path)(
                request.body, timeout=timeout_seconds, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise _translated(error) from error
        return answer

    async def sleep(self, seconds: float) -> None:
        """Suspend."""
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Close the channel; pending calls fail."""
        if self._made is not None:
            await self._made.close()

    def _channel(self) -> Any:
        if self._made is None:
            authority, options = self._address.authority, _options(self._tls)
            if self._address.is_secure:
                credentials = _credentials(self._tls)
                self._made = grpc.aio.secure_channel(authority, credentials, options)
            else:
                self._made = grpc.aio.insecure_channel(authority, options)
        return self._made


def _options(tls: Tls) -> list[tuple[str, Any]]:
    options = list(_OPTIONS)
    if tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


def _credentials(tls: Tls) -> Any:
    def read(path: Any) -> bytes | None:
        return None if path is None else Path(path).read_bytes()

    return grpc.ssl_channel_credentials(read(tls.ca), read(tls.key), read(tls.certificate))


def _translated(error: Any) -> ServableError:
    """The exception for a failed call."""
    number, _ = error.code().value
    return from_code(number, error.details() or error.code().name)
