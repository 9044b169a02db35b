"""Selects codec and transport by the address, for both clients."""

from __future__ import annotations

from collections.abc import Mapping

from servable.client._calls import Calls
from servable.client._exchange import Codec, Transport
from servable.client._grpc_codec import GrpcCodec
from servable.client._options import Address, Retry, Tls
from servable.client._rest_codec import RestCodec
from servable.errors import ConfigError


def connect(
    address: str,
    *,
    is_async: bool,
    tls: Tls | None,
    api_key: str | None,
    headers: Mapping[str, str],
    retry: Retry,
    timeout: float | None,
) -> Calls:
    """Make the codec and the transport for an address. Sends nothing.

    Raises:
        ConfigError: The address or a header cannot be used.
        ImportError: The package for the protocol is not installed.
    """
    place = Address.parse(address)
    if tls is not None and not place.is_secure:
        raise ConfigError(f"address {address!r}: got `tls`, want grpcs:// or https://")
    trust = tls or Tls()
    sent = _checked_headers(headers, api_key)
    codec: Codec
    transport: Transport
    # Imported here, so that each protocol needs only one package.
    if place.is_rest:
        from servable.client._rest_transport import AsyncRestTransport, RestTransport

        codec = RestCodec()
        rest = AsyncRestTransport if is_async else RestTransport
        transport = rest(place, trust, sent)
    else:
        from servable.client._grpc_transport import AsyncGrpcTransport, GrpcTransport

        codec = GrpcCodec()
        grpc = AsyncGrpcTransport if is_async else GrpcTransport
        transport = grpc(place, trust, sent)
    return Calls(codec, transport, retry, timeout)


def _checked_headers(headers: Mapping[str, str], api_key: str | None) -> list[tuple[str, str]]:
    sent = [(name.lower(), value) for name, value in headers.items()]
    if api_key is not None:
        sent.append(("authorization", f"Bearer {api_key}"))
    for name, value in sent:
        if not (name.isascii() and value.isascii() and (name + value).isprintable() and name):
            # The message leaves the value out: it may be a secret.
            raise ConfigError(f"header {name!r}: want printable ASCII")
    return sent
