"""Where a client's server is, how it is trusted, and how often it is asked again."""

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
    """Stands for what the client was made with."""

    TIMEOUT = enum.auto()


Timeout = float | None | Default
"""Seconds; None is without limit."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is.

    Attributes:
        is_rest: Whether to speak REST to it; gRPC otherwise.
        is_secure: Whether to speak TLS.
        authority: Host and port; for a Unix socket what stands in their place.
        socket_path: The path of a Unix socket; empty for TCP.
        prefix: What the paths of REST are appended to.
    """

    is_rest: bool
    is_secure: bool
    authority: str
    socket_path: str = ""
    prefix: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address as people write it.

        Args:
            text: `localhost:8500`, which is gRPC; `grpc://…` and `grpcs://…` (with TLS), whose
                port is 8500 if not given; `http://…` and `https://…`, for REST, with or without a
                path that goes before `/v1`; `unix:/run/servable.sock` for gRPC over a Unix socket
                and `http+unix://%2Frun%2Fservable.sock` for REST over one.

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
    """How a client checks who the server is, and says who it is itself.

    Attributes:
        ca: File of the authorities that are trusted, in PEM; those of the system if None.
        certificate: File of the client's own certificate, for mutual TLS.
        key: File of its key; wanted with `certificate`.
        server_name: The name that the server's certificate must have, where it is not the host
            of the address.
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        """Look whether the parts belong together, and can be read.

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
    """How often a call is repeated that found no server, or one that says UNAVAILABLE.

    Only calls that change nothing are repeated, and only while their time lasts.

    Attributes:
        attempts: How often a call is tried in all; 1 never repeats it.
        initial_pause_seconds: How long to wait before the second attempt, at most.
        factor: How much longer each further wait is.
        longest_pause_seconds: What a wait never exceeds.
    """

    attempts: int = 8
    initial_pause_seconds: float = 0.1
    factor: float = 2.0
    longest_pause_seconds: float = 2.0

    def pause_seconds(
        self, attempt: int, chance: Callable[[], float] = random.random
    ) -> float | None:
        """How long to wait after an attempt, counted from 1; None if there is to be no other.

        Half of the wait is left to chance, so that clients of a server that restarts do not all
        come back at once.
        """
        if attempt >= self.attempts:
            return None
        longest = min(
            self.initial_pause_seconds * self.factor ** (attempt - 1), self.longest_pause_seconds
        )
        return longest * (0.5 + chance() / 2)


class Deadline:
    """When a call has to be over, whatever it consists of."""

    def __init__(
        self, timeout_seconds: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start the time.

        Args:
            timeout_seconds: How long; None is for ever.
            clock: Tells the time.
        """
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._end = None if timeout_seconds is None else clock() + timeout_seconds

    def remaining(self) -> float | None:
        """The seconds that are left.

        Raises:
            DeadlineExceededError: None are.
        """
        if self._end is None:
            return None
        left = self._end - self._clock()
        if left <= 0:
            raise DeadlineExceededError(f"no answer within {self._timeout_seconds:g} seconds")
        return left

    def leaves(self, seconds: float) -> bool:
        """Whether more than so many seconds are left."""
        return self._end is None or self._end - self._clock() > seconds
