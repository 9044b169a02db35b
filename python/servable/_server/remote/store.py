"""Access to object stores and web servers through fsspec: directories, manifests, content.

fsspec and its drivers are imported at the first use of a URL. Drivers find credentials, endpoints and proxies by their
own rules.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from servable._server.remote.errors import PERMANENT, store_error
from servable._server.remote.manifest import (
    Manifest,
    RemoteFile,
    check_path,
    describe,
    without_markers,
)
from servable._server.remote.s3_environment import s3_options
from servable._server.remote.s3_listing import with_bounded_listings
from servable._server.remote.stores import Reach
from servable._server.remote.urls import missing_driver, scheme_of, shown
from servable._server.remote.web import (
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_REDIRECTS,
    Entry,
    client_maker,
    find_files,
    list_directory,
)
from servable.errors import Code, LoadError

T = TypeVar("T")

_LISTING_SECONDS = 60.0
_READ_SECONDS = 120.0
"""The time limit of one range; a dead connection must not block a load."""
_RANGE_BYTES = 8 << 20
_SMALL_RANGE_BYTES = 1 << 20
_RANGES_AT_ONCE = 4
_STREAM_BYTES = 1 << 20
_SKIP_BYTES = 4 << 20
"""Up to this size, reading and discarding data is cheaper than another request."""
_HTTP = ("http", "https")
_FLAT = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf")
"""Stores that list all files below a path at once; elsewhere directories are walked, and may be endless."""


class Children(NamedTuple):
    """The direct children of a base path.

    Attributes:
        directories: The names of directories, in order.
        files: The names of files.
        is_file: Whether the base path is itself a file.
    """

    directories: list[str]
    files: list[str]
    is_file: bool = False


class RemoteStore:
    """The remote stores of one server. Safe to use from several threads.

    Every method raises `ServableError` with a code for the cause: `NOT_FOUND`, `UNAUTHENTICATED`, `PERMISSION_DENIED`,
    `FAILED_PRECONDITION` for a driver that is not installed, `UNAVAILABLE` for failures that may pass.

    Attributes:
        reach: The permitted stores; `None` for all. May be replaced at any time.
    """

    def __init__(self, *, verifies: bool = True) -> None:
        """Make an access without imports or connections.

        Args:
            verifies: Whether fetched files are compared with the checksums of stores. If not, checksums do not identify
                content: a store could claim the checksums of another one, and replace its versions in the cache.
        """
        self._verifies = verifies
        self._lock = threading.Lock()
        self._file_systems: dict[tuple[str, str, bool], Any] = {}
        self.reach: Reach | None = None

    def children(self, base_url: str) -> Children:
        """The direct children of a base path.

        Raises:
            ServableError: See the class; a base path that does not exist is `NOT_FOUND`.
        """

        def list_names(file_system: Any) -> Children:
            directories: set[str] = set()
            files: set[str] = set()
            if scheme_of(base_url) in _HTTP:
                for listed in list_directory(file_system, base_url):
                    if "/" not in (name := listed.path.strip("/")):
                        (directories if listed.is_directory else files).add(name)
                return Children(sorted(directories), sorted(files))
            file_system.invalidate_cache()
            root = _root(file_system, base_url)
            entries = file_system.ls(root, detail=True, **_limit(file_system, _LISTING_SECONDS))
            is_file = False
            for entry in entries:
                name, is_directory = str(entry["name"]), entry.get("type") == "directory"
                is_file |= name == root and not is_directory
                name = _relative(name, root)
                if name and "/" not in name:
                    (directories if is_directory else files).add(name)
            return Children(sorted(directories), sorted(files), is_file)

        return self._ask(base_url, "list", list_names)

    def directories(self, base_url: str) -> list[str]:
        """The names of the direct subdirectories of a base path; see `children`."""
        return self.children(base_url).directories

    def manifest(self, url: str) -> Manifest:
        """List the files of a version.

        Raises:
            ServableError: See the class; a version without files is `NOT_FOUND`.
        """
        scheme = scheme_of(url)
        # The ETags of S3's directory buckets look like hashes, but are none.
        has_md5_etags = not urlsplit(url).netloc.endswith("--x-s3")

        def list_files(file_system: Any) -> Manifest:
            file_system.invalidate_cache()
            root = _root(file_system, url)
            limit = _limit(file_system, _LISTING_SECONDS)
            if scheme in _HTTP:
                found = _described(file_system, find_files(file_system, url), limit)
            else:
                found = _found(file_system, root, {} if scheme in _FLAT else _WALKED, limit)
            files: list[RemoteFile] = []
            for path, info in found:
                if not path or path.endswith("/") or info.get("type") == "directory":
                    continue  # a directory marker, the empty object of some tools
                if len(files) >= MAX_ENTRIES or path.count("/") > MAX_DEPTH:
                    raise LoadError(
                        f"{shown(url)} has more than {MAX_ENTRIES} files, or directories nested more than "
                        f"{MAX_DEPTH} deep",
                        code=Code.RESOURCE_EXHAUSTED,
                    )
                check_path(path, url)
                file = describe(scheme, path, info, has_md5_etags)
                files.append(file if self._verifies else replace(file, checksum=None))
            described = without_markers(files)
            if not described:
                raise LoadError(f"There are no files in {shown(url)}", code=Code.NOT_FOUND)
            return Manifest(url, described)

        return self._ask(url, "list", list_files)

    def content(self, url: str, max_bytes: int) -> bytes:
        """Read a single file that belongs to no version.

        Raises:
            ServableError: See the class; `RESOURCE_EXHAUSTED` if the file is larger.
        """

        def read_all(file_system: Any) -> bytes:
            if scheme_of(url) in _HTTP:
                content = b"".join(_at_most(file_system, url, max_bytes + 1))
            else:
                file_system.invalidate_cache()
                location = _root(file_system, url)
                limit = _limit(file_system, _LISTING_SECONDS)
                size = file_system.info(location, **limit)["size"] or 0
                if size > max_bytes:
                    raise _too_large(url, max_bytes)
                content = bytes(file_system.cat_file(location, **limit))
            if len(content) > max_bytes:
                raise _too_large(url, max_bytes)
            return content

        return self._ask(url, "read", read_all)

    def read(
        self, url: str, file: RemoteFile, offset: int, *, gently: bool = False
    ) -> Iterator[tuple[int, bytes]]:
        """Read a file of the version at `url`, from an offset to its end.

        Args:
            url: The version's directory.
            file: A file of its manifest.
            offset: Where to begin.
            gently: Use small requests, which succeed even on a slow or unstable connection.

        Yields:
            Blocks, with the offset of each. The first one may start at 0 instead of the requested offset, if the server
            does not support ranges.

        Raises:
            ServableError: See the class; nothing is retried here.
        """
        file_system = self._ask(url, "open", lambda opened: opened)
        try:
            if scheme_of(url) in _HTTP:
                yield from _stream(file_system, file, offset)
            elif file.size is None:
                yield offset, bytes(file_system.cat_file(file.location, start=offset))
            else:
                count, size = (1, _SMALL_RANGE_BYTES) if gently else (_RANGES_AT_ONCE, _RANGE_BYTES)
                yield from _ranges(file_system, file, offset, count, size)
        except Exception as raised:  # the driver's border
            raise store_error(raised, f"fetch {file.path} of", url) from raised

    def open(self, url: str, file: RemoteFile) -> ForwardReader:
        """Open a file of the version at `url`; the first read sends the first request."""
        return ForwardReader(file.size, lambda offset: self.read(url, file, offset, gently=True))

    def checksum_counts(self, url: str, file: RemoteFile) -> bool:
        """Whether a checksum mismatch proves that the content is wrong.

        The ETag of an object that S3 encrypts with a customer's key looks like an MD5 hash, but is none. Only the
        object's headers tell.
        """
        if scheme_of(url) not in ("s3", "s3a"):
            return True
        bucket, _, key = file.location.partition("/")

        def head(file_system: Any) -> bool:
            answer = file_system.call_s3("head_object", Bucket=bucket, Key=key)
            is_plain = answer.get("ServerSideEncryption") in (None, "AES256")
            return is_plain and not answer.get("SSECustomerAlgorithm")

        return self._ask(url, "look at", head)

    def _ask(self, url: str, doing: str, question: Callable[[Any], T]) -> T:
        reach = self.reach
        # Base paths that were named at the start are exempt from the check of addresses.
        key = (scheme_of(url), urlsplit(url).netloc, reach is None or reach.names(url))
        try:
            if reach is not None and not reach.allows(url):
                raise LoadError(
                    f"The server was not started with the store of {shown(url)}; --allowed_remote_stores names "
                    "further ones",
                    code=Code.PERMISSION_DENIED,
                )
            return question(self._file_system(key, url))
        except Exception as raised:  # the driver's border
            error = store_error(raised, doing, url)
            if error.code in PERMANENT:
                with self._lock:
                    # Most drivers read credentials once; a new instance may find valid ones.
                    self._file_systems.pop(key, None)
            if error is raised:
                raise
            raise error from raised

    def _file_system(self, key: tuple[str, str, bool], url: str) -> Any:
        with self._lock:
            if key not in self._file_systems:
                self._file_systems[key] = _open(url, lambda: self.reach)
            return self._file_systems[key]


class ForwardReader:
    """Reads a remote file forwards; large skipped parts are not requested.

    Attributes:
        size: The size in bytes, if the store reports it.
    """

    def __init__(
        self, size: int | None, read_from: Callable[[int], Iterator[tuple[int, bytes]]]
    ) -> None:
        """Open without a request.

        Args:
            size: The size in bytes, if it is known.
            read_from: Yields blocks with their offsets, from one offset to the end; see `RemoteStore.read`.
        """
        self.size = size
        self._read_from = read_from
        self._blocks: Iterator[tuple[int, bytes]] | None = None
        self._position = 0
        self._start, self._block = 0, b""

    def read(self, count: int) -> bytes:
        """The next bytes; fewer only at the end of the file.

        Raises:
            ServableError: See `RemoteStore`.
        """
        content = b""
        while len(content) < count and self._fetch():
            begin = self._position - self._start
            part = self._block[begin : begin + count - len(content)]
            self._position += len(part)
            content += part
        return content

    def skip(self, count: int) -> None:
        """Skip bytes, also beyond the end."""
        self._position += count
        if self._position - (self._start + len(self._block)) > _SKIP_BYTES:
            self._blocks = None

    def _fetch(self) -> bool:
        """Load the block that contains the next byte; false at the end."""
        while not self._start <= self._position < self._start + len(self._block):
            if self.size is not None and self._position >= self.size:
                return False
            if self._blocks is None:
                self._blocks = self._read_from(self._position)
            found = next(self._blocks, None)
            if found is None:
                return False
            self._start, self._block = found
        return True


def _open(url: str, reach: Callable[[], Reach | None]) -> Any:
    try:
        import fsspec
        import fsspec.config

        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        scheme = scheme_of(url)
        if scheme in ("s3", "s3a"):
            options |= s3_options(os.environ, fsspec.config.conf.get("s3", {}))
        if scheme in _HTTP:
            options |= {"get_client": client_maker(url, reach), "max_redirects": MAX_REDIRECTS}
            if "client_kwargs" not in fsspec.config.conf.get(scheme, {}):
                from aiohttp import ClientTimeout

                # The default is five minutes for a whole file of any size.
                timeout = ClientTimeout(total=None, sock_connect=30, sock_read=_READ_SECONDS)
                options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
        # Not `url_to_fs`, which also opens places that a URL names after `::`.
        driver = fsspec.get_filesystem_class(scheme)
        if scheme in ("s3", "s3a"):
            driver = with_bounded_listings(driver)
        return driver(**{**driver._get_kwargs_from_urls(url), **options})
    except ImportError as raised:
        raise missing_driver(url, str(raised)) from raised
    except ValueError as raised:
        if "rotocol not known" in str(raised):
            raise missing_driver(url, str(raised)) from raised
        raise


_WALKED = {"maxdepth": MAX_DEPTH + 2}


def _found(
    file_system: Any, root: str, how: dict[str, int], limit: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, info in file_system.find(root, detail=True, **how, **limit).items():
        yield _relative(name, root), info


def _described(
    file_system: Any, entries: list[Entry], limit: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in entries:
        yield entry.path, {**file_system.info(entry.url, **limit), "name": entry.url}


def _at_most(file_system: Any, url: str, count: int) -> Iterator[bytes]:
    """The first bytes of a file on a web server, which may not report its size."""
    headers = {"Accept-Encoding": "identity"}
    with file_system.open(url, "rb", block_size=0, size=1, headers=headers) as stream:
        while count > 0 and (block := stream.read(min(count, _STREAM_BYTES))):
            yield block
            count -= len(block)


def _too_large(url: str, max_bytes: int) -> LoadError:
    return LoadError(f"{shown(url)} has more than {max_bytes} bytes", code=Code.RESOURCE_EXHAUSTED)


def _root(file_system: Any, url: str) -> str:
    return str(file_system._strip_protocol(url)).rstrip("/")


def _relative(name: str, root: str) -> str:
    """The path of an entry relative to the root; empty for the root itself."""
    prefix = root + "/"
    if not name.startswith(prefix):
        return ""
    relative = name[len(prefix) :]
    return relative[:-1] if relative.endswith("/") and relative.count("/") == 1 else relative


def _limit(file_system: Any, seconds: float) -> dict[str, Any]:
    """The time-out keyword of a call, for drivers on fsspec's event loop; others have their own time-outs."""
    return {"timeout": seconds} if file_system.async_impl else {}


def _ranges(
    file_system: Any, file: RemoteFile, offset: int, count: int, range_bytes: int
) -> Iterator[tuple[int, bytes]]:
    """The file in order; `count` ranges are requested at a time."""
    size = file.size or 0
    limit = _limit(file_system, _READ_SECONDS)
    while offset < size:
        end = min(size, offset + count * range_bytes)
        starts = list(range(offset, end, range_bytes))
        ends = [*starts[1:], end]
        # Returned, not raised: the blocks before the first failure are kept.
        blocks = file_system.cat_ranges(
            [file.location] * len(starts), starts, ends, on_error="return", **limit
        )
        for start, stop, block in zip(starts, ends, blocks, strict=True):
            if isinstance(block, BaseException):
                raise block
            yield start, bytes(block)
            if len(block) != stop - start:
                raise EOFError(f"{len(block)} of {stop - start} bytes at offset {start}")
        offset = end


def _stream(file_system: Any, file: RemoteFile, offset: int) -> Iterator[tuple[int, bytes]]:
    """One request for all remaining data, since not every web server supports ranges."""
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if file.revision:
            headers["If-Range"] = file.revision
    opened = file_system.open(file.location, "rb", block_size=0, size=1, headers=headers)
    with opened as stream:
        if offset and getattr(getattr(stream, "r", None), "status", 206) != 206:
            offset = 0
        while block := stream.read(_STREAM_BYTES):
            yield offset, block
            offset += len(block)
