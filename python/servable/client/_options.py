"""Options of a client: address, TLS, retries and deadlines."""

from __future__ import annotations

import enum
import os
import random
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from servable.errors import ConfigError, DeadlineExceededError

GRPC_PORT = 8500
_SCHEMES = "grpc://, grpcs://, http://, https://, unix: or http+unix://"


class Default(enum.Enum):
    """Stands for the client's own setting."""

    TIMEOUT = enum.auto()


Timeout = float | None | Default
"""Seconds; None for no limit."""


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a server.

    Attributes:
        is_rest: Whether to use REST; gRPC otherwise.
        is_secure: Whether to use TLS.
        authority: Host and port; for a Unix socket a substitute.
        socket_path: The path of a Unix socket; empty for TCP.
        prefix: Prepended to the paths of REST.
    """

    is_rest: bool
    is_secure: bool
    authority: str
    socket_path: str = ""
    prefix: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse an address.

        Args:
            text: For gRPC `localhost:8500`, `grpc://…` and `grpcs://…` (with TLS), with 8500 as default port. For REST
                `http://…` and `https://…`, optionally with a path that is prepended to `/v1`. For Unix sockets
                `unix:/run/servable.sock` (gRPC) and `http+unix://%2Frun%2Fservable.sock` (REST).

        Raises:
            ConfigError: It is none of these.
        """
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if path.startswith("//"):
                path = path.removeprefix("//")
            if not path:
                raise ConfigError(f"address {text!r}: want the path of a socket after `unix:`")
            return cls(False, False, f"unix:{path}", path)
        scheme, separator, _ = text.partition("://")
        if not separator:
            scheme, text = "grpc", f"grpc://{text}"
        parts = urllib.parse.urlsplit(text)
        if scheme == "http+unix":
            path = urllib.parse.unquote(parts.netloc)
            if not path:
                raise ConfigError(f"address {text!r}: want the path of a socket, with %2F for /")
            return cls(True, False, "localhost", path, parts.path.rstrip("/"))
        if scheme not in ("grpc", "grpcs", "http", "https"):
            raise ConfigError(f"address {text!r}: got {scheme}://, want {_SCHEMES}")
        try:
            port, host = parts.port, parts.hostname
        except ValueError as error:
            raise ConfigError(f"address {text!r}: {error}") from error
        is_rest, is_secure = scheme.startswith("http"), scheme.endswith("s")
        has_path = parts.path not in ("", "/")
        if not host or parts.username or parts.query or (has_path and not is_rest):
            raise ConfigError(f"address {text!r}: want host:port after {scheme}://")
        if ":" in host:
            host = f"[{host}]"
        if not is_rest:
            port = GRPC_PORT if port is None else port
        authority = host if port is None else f"{host}:{port}"
        return cls(is_rest, is_secure, authority, "", parts.path.rstrip("/"))


@dataclass(frozen=True, slots=True)
class Tls:
    """How a client authenticates the server, and itself.

    Attributes:
        ca: File of the trusted authorities, in PEM; those of the system if None.
        certificate: File of the client's certificate, for mutual TLS.
        key: File of its key; required with `certificate`.
        server_name: The name that the server's certificate must have, if it is not the host of the address.
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        """Check that the options fit together, and that the files exist.

        Raises:
            ConfigError: A file is missing.
        """
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("Tls: want both `certificate` and `key`, or neither")
        for path in (self.ca, self.certificate, self.key):
            if path is not None and not Path(path).is_file():
                raise ConfigError(f"Tls: there is no file {os.fspath(path)}")


@dataclass(frozen=True, slots=True)
class Retry:
    """Retries of calls that reached no server, or one that answered UNAVAILABLE.

    Only calls without side effects are retried, and only until their deadline.

    Attributes:
        attempts: The maximum number of attempts; 1 disables retries.
        initial_pause_seconds: The maximum pause before the second attempt.
        factor: The growth of the pause with each attempt.
        longest_pause_seconds: The upper limit of the pause.
    """

    attempts: int = 8
    initial_pause_seconds: float = 0.1
    factor: float = 2.0
    longest_pause_seconds: float = 2.0

    def pause_seconds(
        self, attempt: int, chance: Callable[[], float] = random.random
    ) -> float | None:
        """The pause after an attempt, counted from 1; None if no further attempt is allowed.

        Half of the pause is random, so that clients of a restarted server do not reconnect all at once.
        """
        if attempt >= self.attempts:
            return None
        longest = min(
            self.initial_pause_seconds * self.factor ** (attempt - 1), self.longest_pause_seconds
        )
        return longest * (0.5 + chance() / 2)


class Deadline:
    """The deadline of a call, retries and further requests included."""

    def __init__(
        self, timeout_seconds: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start the clock.

        Args:
            timeout_seconds: The time until the deadline; None for no limit.
            clock: Measures time, in seconds.
        """
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._end = None if timeout_seconds is None else clock() + timeout_seconds

    def remaining(self) -> float | None:
        """The seconds until the deadline.

        Raises:
            DeadlineExceededError: It has passed.
        """
        if self._end is None:
            return None
        left = self._end - self._clock()
        if left <= 0:
            raise DeadlineExceededError(f"no answer within {self._timeout_seconds:g} seconds")
        return left

    def leaves(self, seconds: float) -> bool:
        """Whether more than this many seconds remain."""
        return self._end is None or self._end - self._clock() > seconds
