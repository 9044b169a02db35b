"""Web servers as stores: permitted addresses and redirects, and bounded listings.

The path of a base URL may come from an untrusted client, and a server's answers are untrusted, too. Each request,
redirects included, must go to a permitted store. The name of a host is resolved once, and connections go only to the
addresses that were checked. DNS rebinding therefore has no effect.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from servable._server.remote.stores import Reach, Store, store_of
from servable._server.remote.urls import shown
from servable.errors import Code, LoadError

MAX_DEPTH = 16
"""The maximum depth of a version's directories."""

MAX_ENTRIES = 10_000
"""The maximum number of files and directories of a version, or of a base path."""

MAX_PAGE_BYTES = 4 << 20
"""The maximum size of one directory's listing."""

MAX_REDIRECTS = 5

_PAGE_SECONDS = 60.0
_WALK_SECONDS = 300.0
_READ_BYTES = 1 << 16
_METADATA_ADDRESSES = frozenset({"fd00:ec2::254", "100.100.100.200"})
"""Metadata services of clouds, which give credentials to machines, in addition to link-local addresses."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a listing.

    Attributes:
        path: Relative to the first listed directory, with `/` and without escapes.
        url: The entry's URL.
        is_directory: Whether the entry can itself be listed.
    """

    path: str
    url: str
    is_directory: bool


def is_internal(address: str) -> bool:
    """Whether an address is on this machine or its link, or is a cloud's metadata service."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        packed = found.ipv4_mapped or found.sixtofour or _translated(found)
        if packed is not None and is_internal(str(packed)):
            return True
    return (
        found.is_loopback
        or found.is_link_local
        or found.is_unspecified
        or found.is_multicast
        or str(found) in _METADATA_ADDRESSES
    )


def _translated(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a NAT64 gateway derives from an address (RFC 6052)."""
    is_translated = address in ipaddress.ip_network("64:ff9b::/96")
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if is_translated else None


def client_maker(url: str, reach: Callable[[], Reach | None]) -> Callable[..., Any]:
    """The factory of a store's HTTP client: an argument of fsspec's file system.

    Args:
        url: A base path of the store, or a URL below one.
        reach: Returns the permitted stores; called at each request.
    """
    now = reach()
    own_host = urlsplit(url).hostname if now is not None and now.names(url) else None

    async def make(loop: Any = None, **options: Any) -> Any:
        del loop  # the current one is used
        import aiohttp
        from aiohttp.abc import AbstractResolver
        from aiohttp.resolver import DefaultResolver

        proxies: set[str] = set()

        class Resolver(AbstractResolver):
            def __init__(self) -> None:
                self._resolver = DefaultResolver()

            async def resolve(
                self,
                host: str,
                port: int = 0,
                family: socket.AddressFamily = socket.AF_INET,
            ) -> list[Any]:
                found: list[Any] = await self._resolver.resolve(host, port, family)
                within = reach()
                if within is None or host in proxies or host == own_host:
                    return found
                passed = [one for one in found if _may_be(within, host, one["host"], one["port"])]
                if not passed:
                    raise _denied(
                        f"The host {host} has the address {found[0]['host'] if found else '(none)'}, "
                        "which is on this machine or its link; name it by that address in "
                        "--allowed_remote_stores to allow it"
                    )
                return passed

            async def close(self) -> None:
                await self._resolver.close()

        class Connector(aiohttp.TCPConnector):
            async def connect(self, req: Any, *arguments: Any, **keywords: Any) -> Any:
                within = reach()
                if within is not None:
                    _check_target(within, str(req.url))
                if req.proxy is not None and req.proxy.host:
                    # A proxy from the environment of the server.
                    proxies.add(req.proxy.host)
                return await super().connect(req, *arguments, **keywords)

        # Without a DNS cache, connections go to the addresses that were resolved and checked.
        connector = Connector(resolver=Resolver(), use_dns_cache=False)
        return aiohttp.ClientSession(connector=connector, **options)

    return make


def _check_target(reach: Reach, url: str) -> None:
    try:
        store = store_of(url)
    except ValueError as error:
        raise _denied(f"{shown(url)} is not fetched: {error}") from error
    if store in reach.stores or _is_upgraded(store, reach):
        return
    raise _denied(
        f"{shown(url)} is in the remote store {store}, which the server was not started with; "
        "--allowed_remote_stores names further ones, also for redirects"
    )


def _is_upgraded(store: Store, reach: Reach) -> bool:
    """Whether the URL is an allowed web server's redirect from http to https."""
    return store == ("https", f"{store.place.rpartition(':')[0]}:443") and (
        Store("http", f"{store.place.rpartition(':')[0]}:80") in reach.stores
    )


def _may_be(reach: Reach, host: str, address: str, port: int) -> bool:
    if not is_internal(address):
        return True
    if host.rstrip(".").lower() == "localhost":
        return ipaddress.ip_address(address).is_loopback
    place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return any(Store(scheme, place) in reach.stores for scheme in ("http", "https"))


def list_directory(file_system: Any, url: str) -> list[Entry]:
    """The direct entries of a directory, from the server's index page.

    Raises:
        LoadError: The page is too large, or has too many entries.
        Exception: Raised by the driver.
    """
    page = url.rstrip("/") + "/"
    try:
        text = _read_page(file_system, page)
    except FileNotFoundError:
        text = _read_page(file_system, url.rstrip("/"))
    entries = {entry.path: entry for entry in _links(page, text)}
    if len(entries) > MAX_ENTRIES:
        raise _too_much(url, f"a directory with more than {MAX_ENTRIES} entries")
    return [entries[path] for path in sorted(entries)]


def find_files(file_system: Any, url: str) -> list[Entry]:
    """All files below a directory.

    Raises:
        LoadError: There are too many of them, or they are nested too deeply: some servers answer every path with the
            same page.
        Exception: Raised by the driver.
    """
    files: dict[str, Entry] = {}
    seen = 0
    end = time.monotonic() + _WALK_SECONDS
    # Depth first, so that an endless tree is noticed by its depth.
    waiting = [("", url)]
    while waiting:
        above, directory = waiting.pop()
        for entry in list_directory(file_system, directory):
            path = f"{above}{entry.path}"
            seen += 1
            if seen > MAX_ENTRIES:
                raise _too_much(url, f"more than {MAX_ENTRIES} files and directories")
            if path.rstrip("/").count("/") >= MAX_DEPTH:
                raise _too_much(
                    url,
                    f"directories nested more than {MAX_DEPTH} deep; does the server answer every path with the "
                    "same listing?",
                )
            if entry.is_directory:
                waiting.append((path, entry.url))
            else:
                files[path] = Entry(path, entry.url, is_directory=False)
        if time.monotonic() > end:
            raise LoadError(
                f"{shown(url)} has not been listed within {_WALK_SECONDS:.0f} s",
                code=Code.UNAVAILABLE,
            )
    return [files[path] for path in sorted(files)]


def _read_page(file_system: Any, url: str) -> str:
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=_PAGE_SECONDS)
    content = bytearray()
    with file_system.open(url, "rb", block_size=0, size=1, timeout=timeout) as stream:
        headers = getattr(getattr(stream, "r", None), "headers", {})
        if "html" not in headers.get("Content-Type", "text/html").lower():
            return ""
        while block := stream.read(_READ_BYTES):
            content += block
            if len(content) > MAX_PAGE_BYTES:
                raise _too_much(url, f"a listing of more than {MAX_PAGE_BYTES >> 20} MiB")
    return content.decode("utf-8", "ignore")


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


def _links(page: str, text: str) -> Iterator[Entry]:
    """The links of a page to places below itself."""
    parser = _Links()
    parser.feed(text)
    base = urlsplit(page)
    prefix = unquote(base.path)
    for link in parser.found:
        try:
            target = urlsplit(urljoin(page, link))
        except ValueError:
            continue
        # Queries sort a listing; other hosts are not part of this one.
        if target.query or target.fragment or target.netloc != base.netloc:
            continue
        path = unquote(target.path)
        relative = path.removeprefix(prefix)
        if not path.startswith(prefix) or not relative.strip("/") or relative.startswith("/"):
            continue
        url = f"{base.scheme}://{base.netloc}{target.path}"
        yield Entry(relative, url, is_directory=relative.endswith("/"))


def _too_much(url: str, what: str) -> LoadError:
    return LoadError(f"{shown(url)} has {what}", code=Code.RESOURCE_EXHAUSTED)


def _denied(message: str) -> LoadError:
    return LoadError(message, code=Code.PERMISSION_DENIED)
