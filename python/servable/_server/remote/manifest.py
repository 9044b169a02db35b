"""The files of a remote version, and the digest of its content."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from typing import Any

from servable._server.remote.urls import shown
from servable.errors import Code, LoadError

_REVISIONS = (
    *("VersionId", "generation", "blob_id", "ETag", "etag", "Last-Modified", "LastModified"),
    *("last_modified", "updated", "mtime", "created"),
)
"""The keys under which drivers report an object's revision, the most specific first."""
_TIMES = ("LastModified", "last_modified", "updated", "Last-Modified", "mtime")
"""The keys under which drivers report an object's modification time."""
_HEX = frozenset("0123456789abcdef")
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Checksum:
    """The expected hash of a file.

    Attributes:
        algorithm: `md5`, `sha256` or `git-sha1`, the hash of a Git blob.
        hex_digest: The hash.
    """

    algorithm: str
    hex_digest: str

    def fits(self, path: Path) -> bool:
        """Whether a local file has this hash."""
        if self.algorithm == "git-sha1":
            hashed = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
        else:
            hashed = hashlib.new(self.algorithm, usedforsecurity=False)
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                hashed.update(block)
        return hashed.hexdigest() == self.hex_digest


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a version.

    Attributes:
        path: Relative to the version's directory, with `/`.
        location: The driver's name of the file.
        size: The size in bytes; `None` if the store does not report it.
        revision: Identifies the content at the store; empty if the store has no revisions.
        checksum: The hash of the content, if the store has one.
        modified_seconds: The modification time in seconds since the epoch, on the store's clock, if it is known.
    """

    path: str
    location: str
    size: int | None
    revision: str = ""
    checksum: Checksum | None = None
    modified_seconds: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Manifest:
    """All files of one version at one moment.

    Attributes:
        url: The version's URL.
        files: Ordered by path.
    """

    url: str
    files: tuple[RemoteFile, ...]

    @property
    def total_bytes(self) -> int:
        """The sum of all known sizes."""
        return sum(file.size or 0 for file in self.files)

    @property
    def modified_seconds(self) -> float | None:
        """The modification time of the newest file, if it is known."""
        times = [file.modified_seconds for file in self.files]
        return max((seconds for seconds in times if seconds is not None), default=None)

    @functools.cached_property
    def digest(self) -> str:
        """The name of the content, in 64 hexadecimal digits.

        If the store provides checksums, equal content has equal names wherever it is stored. If only sizes and times
        are known, the name depends on the URL.
        """
        is_known = all(file.checksum for file in self.files)
        entries = [
            [file.path, file.size, file.checksum.algorithm, file.checksum.hex_digest]
            if is_known and file.checksum
            else [file.path, file.size, file.revision]
            for file in self.files
        ]
        document = json.dumps(["" if is_known else self.url, entries])
        return hashlib.sha256(document.encode()).hexdigest()


def check_path(path: str, url: str) -> None:
    """Refuse a path that would be written outside of the version's directory.

    Raises:
        LoadError: The path is not inside.
    """
    parts = path.split("/")
    if PurePosixPath(path).is_absolute() or {"", ".", ".."} & {*parts} or "\0" in path:
        raise LoadError(
            f"{shown(url)} has a file with the name {path!r}, which is not fetched",
            code=Code.INVALID_ARGUMENT,
        )


def without_markers(files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
    """The files without directory markers, the empty objects of some tools; ordered by path."""
    files = tuple(files)
    directories = {
        file.path[:end]
        for file in files
        for end, character in enumerate(file.path)
        if character == "/"
    }
    found = (
        file for file in files if file.path not in directories and not file.location.endswith("/")
    )
    return tuple(sorted(found, key=lambda file: file.path))


def describe(scheme: str, path: str, info: Mapping[str, Any], has_md5_etags: bool) -> RemoteFile:
    """Make the entry of one file from its driver's information.

    Args:
        scheme: The scheme of the URL, which determines the form of checksums.
        path: The file's path below the version's directory.
        info: The result of fsspec's `info` or `find` for it.
        has_md5_etags: Whether ETags of the store may be MD5 hashes.
    """
    revision = next((str(info[name]) for name in _REVISIONS if info.get(name)), "")
    size = info.get("size")
    read_checksum = _CHECKSUMS.get(scheme)
    return RemoteFile(
        path=path,
        location=str(info["name"]),
        size=None if size is None else int(size),
        revision=revision,
        checksum=read_checksum(info, has_md5_etags) if read_checksum else None,
        modified_seconds=_modified(info),
    )


def _modified(info: Mapping[str, Any]) -> float | None:
    value = next((info[name] for name in _TIMES if info.get(name)), None)
    if isinstance(value, str):
        value = _parsed_time(value)
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value) if isinstance(value, int | float) else None


def _parsed_time(text: str) -> datetime | None:
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            return parse(text.replace("Z", "+00:00"))
        except ValueError:
            continue
    return None


def _s3(info: Mapping[str, Any], has_md5_etags: bool) -> Checksum | None:
    # The ETag of a multi-part upload is a hash of hashes, and contains a dash.
    etag = str(info.get("ETag") or "").strip('"').lower()
    is_md5 = has_md5_etags and len(etag) == 32 and set(etag) <= _HEX
    return Checksum("md5", etag) if is_md5 else None


def _gcs(info: Mapping[str, Any], _: bool) -> Checksum | None:
    return _from_base64("md5", info.get("md5Hash"))  # composite objects have none


def _azure(info: Mapping[str, Any], _: bool) -> Checksum | None:
    settings = info.get("content_settings") or {}
    return _from_base64("md5", settings.get("content_md5"))


def _hugging_face(info: Mapping[str, Any], _: bool) -> Checksum | None:
    if lfs := info.get("lfs"):
        return Checksum("sha256", str(lfs["sha256"]))
    if blob_id := info.get("blob_id"):
        return Checksum("git-sha1", str(blob_id))
    return None


def _http(info: Mapping[str, Any], _: bool) -> Checksum | None:
    for digest in str(info.get("Digest") or "").split(","):
        algorithm, _equals, value = digest.strip().partition("=")
        if algorithm.lower() == "sha-256":
            return _from_base64("sha256", value)
    return _from_base64("md5", info.get("Content-MD5"))


def _from_base64(algorithm: str, value: object) -> Checksum | None:
    if isinstance(value, (bytes, bytearray)):
        return Checksum(algorithm, value.hex()) if value else None
    if not isinstance(value, str) or not value:
        return None
    try:
        return Checksum(algorithm, base64.b64decode(value, validate=True).hex())
    except ValueError:
        return None


_CHECKSUMS: Mapping[str, Callable[[Mapping[str, Any], bool], Checksum | None]] = {
    "s3": _s3,
    "s3a": _s3,
    "gs": _gcs,
    "gcs": _gcs,
    "az": _azure,
    "abfs": _azure,
    "abfss": _azure,
    "hf": _hugging_face,
    "http": _http,
    "https": _http,
}
