"""REST by httpx, which has one interface for blocking and asynchronous calls."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Sequence
from typing import Any

from servable.client._exchange import Request
from servable.client._options import Address, Tls
from servable.errors import (
    Code,
    DeadlineExceededError,
    ServableError,
    UnavailableError,
    from_code,
)

try:
    import httpx
except ImportError as error:
    raise ImportError(
        "REST needs the package httpx; install it with `pip install 'servable[client]'`, "
        "or use an address that begins with grpc://"
    ) from error

_CODES = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    408: Code.DEADLINE_EXCEEDED,
    409: Code.ABORTED,
    413: Code.INVALID_ARGUMENT,
    429: Code.RESOURCE_EXHAUSTED,
    499: Code.CANCELLED,
    500: Code.INTERNAL,
    501: Code.UNIMPLEMENTED,
    502: Code.UNAVAILABLE,  # from a proxy that did not reach the server
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=100)
_EXCERPT_BYTES = 200

Headers = Sequence[tuple[str, str]]


class RestTransport:
    """Connections whose calls block."""

    def __init__(self, address: Address, tls: Tls, headers: Headers) -> None:
        """Describe the connections; they are opened on demand."""
        self._extensions = _extensions(tls)
        self._client = httpx.Client(
            base_url=_base_url(address),
            headers=_headers(headers),
            limits=_LIMITS,
            transport=_transport(httpx.HTTPTransport, address, tls),
        )

    async def send(self, request: Request, timeout_seconds: float | None) -> bytes:
        """Send a request, and wait for its answer."""
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        built = self._client.build_request(
            *_method_and_path(request),
            content=request.body,
            timeout=timeout_seconds,
            extensions=self._extensions,
        )
        try:
            # httpx limits each step, so an answer that arrives in small parts could exceed the time-out.
            answer = self._client.send(built, stream=True)
            try:
                chunks = []
                for chunk in answer.iter_bytes():
                    chunks.append(chunk)
                    if end is not None and time.monotonic() > end:
                        raise _too_late(timeout_seconds)
            finally:
                answer.close()
        except httpx.HTTPError as error:
            raise _translated(error, timeout_seconds) from error
        return _checked(answer, b"".join(chunks))

    async def sleep(self, seconds: float) -> None:
        """Block."""
        time.sleep(seconds)

    async def close(self) -> None:
        """Close the connections."""
        self._client.close()


class AsyncRestTransport:
    """Connections for one event loop."""

    def __init__(self, address: Address, tls: Tls, headers: Headers) -> None:
        """Describe the connections; they are opened on demand."""
        self._extensions = _extensions(tls)
        self._client = httpx.AsyncClient(
            base_url=_base_url(address),
            headers=_headers(headers),
            limits=_LIMITS,
            transport=_transport(httpx.AsyncHTTPTransport, address, tls),
        )

    async def send(self, request: Request, timeout_seconds: float | None) -> bytes:
        """Send a request, and wait for its answer."""
        built = self._client.build_request(
            *_method_and_path(request),
            content=request.body,
            timeout=None,
            extensions=self._extensions,
        )
        try:
            answer = await asyncio.wait_for(self._client.send(built), timeout_seconds)
        except asyncio.TimeoutError as error:
            raise _too_late(timeout_seconds) from error
        except httpx.HTTPError as error:
            raise _translated(error, timeout_seconds) from error
        return _checked(answer, answer.content)

    async def sleep(self, seconds: float) -> None:
        """Suspend."""
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _base_url(address: Address) -> str:
    scheme = "https" if address.is_secure else "http"
    return f"{scheme}://{address.authority}{address.prefix}"


def _headers(headers: Headers) -> list[tuple[str, str]]:
    return [("content-type", "application/json"), *headers]


def _transport(kind: Any, address: Address, tls: Tls) -> Any:
    """A transport for a Unix socket or for certificates; None if the default suffices."""
    if address.socket_path:
        return kind(uds=address.socket_path, limits=_LIMITS)
    if not address.is_secure or (tls.ca is None and tls.certificate is None):
        return None
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return kind(verify=context, limits=_LIMITS)


def _extensions(tls: Tls) -> dict[str, Any]:
    return {"sni_hostname": tls.server_name} if tls.server_name else {}


def _method_and_path(request: Request) -> tuple[str, str]:
    return ("GET" if request.body is None else "POST"), request.path


def _checked(answer: Any, body: bytes) -> bytes:
    status = int(answer.status_code)
    if status == 200:
        return body
    try:
        message = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        excerpt = body[:_EXCERPT_BYTES].decode(errors="replace")
        message = f"{answer.request.url} answered {status}: {excerpt}"
    code = _CODES.get(status, Code.INVALID_ARGUMENT if 400 <= status < 500 else Code.UNKNOWN)
    raise from_code(code, message)


def _translated(error: Any, timeout_seconds: float | None) -> ServableError:
    if isinstance(error, httpx.TimeoutException):
        return _too_late(timeout_seconds)
    return UnavailableError(f"{error.request.url}: {error or type(error).__name__}")


def _too_late(timeout_seconds: float | None) -> DeadlineExceededError:
    return DeadlineExceededError(f"no answer within {timeout_seconds or 0:.3g} seconds")
