"""Stores: the places that credentials and permissions apply to, such as a bucket or a host."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from servable._server.remote.urls import scheme_of

_SAME_STORES = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}
"""Aliases of schemes."""

_PORTS = {"http": 80, "https": 443}
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")


class Store(NamedTuple):
    """A store.

    Attributes:
        scheme: The protocol.
        place: A bucket, a container, a repository, or `host:port`.
    """

    scheme: str
    place: str

    def __str__(self) -> str:
        """The store in the form of flags."""
        port = _PORTS.get(self.scheme)
        return f"{self.scheme}://{self.place.removesuffix(f':{port}') if port else self.place}"

    @property
    def host(self) -> str:
        """The host of a web server."""
        return self.place.rpartition(":")[0].strip("[]")


def store_of(url: str) -> Store:
    """The store of a URL.

    Raises:
        ValueError: The URL is ambiguous, because parsers may disagree on it.
    """
    scheme = scheme_of(url)
    scheme = _SAME_STORES.get(scheme, scheme)
    if scheme in _PORTS:
        if _UNSAFE.search(url):
            raise ValueError(
                "a URL of a web server has no spaces, control characters or backslashes"
            )
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
        if not host:
            raise ValueError("it names no host")
        host = f"[{host}]" if ":" in host else host
        return Store(scheme, f"{host}:{parts.port or _PORTS[scheme]}")
    place, *rest = url.partition("://")[2].split("/")
    if scheme == "hf":
        # The repository, optionally preceded by its kind.
        count = 2 if place in ("datasets", "spaces", "models", "buckets") else 1
        place = "/".join([place, *rest[:count]])
    elif place.startswith("arn:"):
        # The name of an access point, or of one on an outpost, may contain slashes.
        place = "/".join([place, *rest[: 3 if "outpost" in place else 1]])
    return Store(scheme, place)


def is_at_or_below(url: str, base_url: str) -> bool:
    """Whether a URL equals another one or is below it, however servers interpret dots in paths."""
    try:
        if store_of(url) != store_of(base_url):
            return False
    except ValueError:
        return False
    path, base = _segments(url), _segments(base_url)
    return path[: len(base)] == base and not {".", ".."} & {*path}


def _segments(url: str) -> list[str]:
    path = url.partition("://")[2].partition("/")[2]
    return [unquote(unquote(segment)) for segment in path.rstrip("/").split("/") if path]


@dataclass(frozen=True, slots=True)
class Reach:
    """The stores from which a server may fetch.

    Attributes:
        stores: The stores that were named at the start.
        base_urls: The base paths that were named at the start. Their hosts may have any address. Other hosts must not
            be on this machine or its link, unless their store is named by that address.
    """

    stores: frozenset[Store] = frozenset()
    base_urls: tuple[str, ...] = ()

    def allows(self, url: str) -> bool:
        """Whether a URL is in one of the stores."""
        try:
            return store_of(url) in self.stores
        except ValueError:
            return False

    def names(self, url: str) -> bool:
        """Whether a URL is at or below one of the base paths."""
        return any(is_at_or_below(url, base_url) for base_url in self.base_urls)
