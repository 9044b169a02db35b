"""The cache directory of fetched versions, addressed by their content.

```
<directory>/versions/<digest>/   complete versions: manifest.json, and the files in content/
<directory>/partial/<digest>/    the same, during the fetch; kept for the next attempt
<directory>/locks/<digest>.claim shared lock of each process that wants or uses the version
<directory>/locks/<digest>.fetch exclusive lock of the process that fetches it
<directory>/locks/room           exclusive lock during eviction
```

A rename publishes a version, so that a crash leaves no incomplete one. Several servers may share the directory: they
wait for each other's fetches, and a version with a claim is never evicted.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from servable._server.remote.locks import LockFile, exclusive
from servable._server.remote.manifest import Manifest
from servable._server.remote.urls import shown
from servable.errors import Code, LoadError

_NEVER = threading.Event()


class Claim:
    """Protects a version from eviction until it is released."""

    def __init__(self, cache: VersionCache, digest: str) -> None:
        self._cache: VersionCache | None = cache
        self._digest = digest

    def release(self) -> None:
        """Release the claim; further calls do nothing."""
        cache, self._cache = self._cache, None
        if cache is not None:
            cache._release(self._digest)


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    total_bytes: int
    last_used: float

    @property
    def digest(self) -> str:
        return self.path.name


class VersionCache:
    """A cache directory. Safe to use from several threads and several processes.

    Attributes:
        directory: The directory.
    """

    def __init__(self, directory: Path, max_bytes: int = 0) -> None:
        """Use a directory; it is created on demand.

        Args:
            directory: On a file system with locks; may be shared by servers.
            max_bytes: The size limit. 0 is half of the file system; a negative value is no limit.
        """
        self.directory = directory
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._claims: dict[str, tuple[LockFile, int]] = {}

    def claim(self, digest: str) -> Claim:
        """Protect a version from eviction, whether complete, partial or not yet fetched."""
        with self._lock:
            lock, count = self._claims.get(digest, (None, 0))
            if lock is None:
                lock = LockFile(self._lock_path(digest, "claim"))
                # An eviction holds the lock only during a rename.
                lock.lock(shared=True, cancelled=_NEVER)
            self._claims[digest] = (lock, count + 1)
        self._touch(digest)
        return Claim(self, digest)

    def _release(self, digest: str) -> None:
        self._touch(digest)
        with self._lock:
            lock, count = self._claims.pop(digest)
            if count > 1:
                self._claims[digest] = (lock, count - 1)
            else:
                lock.close()

    def find(self, manifest: Manifest) -> Path | None:
        """The directory of a complete version's files, or `None`.

        The caller must have a claim. A version whose files have been modified does not count.
        """
        content = self._version(manifest.digest) / "content"
        for file in manifest.files:
            try:
                size = (content / file.path).stat().st_size
            except OSError:
                return None
            if file.size is not None and size != file.size:
                return None
        return content

    @contextlib.contextmanager
    def fetching(self, manifest: Manifest, cancelled: threading.Event) -> Iterator[Path]:
        """Hold the exclusive right to fetch a version; the caller must have a claim.

        Yields:
            The directory for the files; it contains the files of an earlier attempt.

        Raises:
            CancelledError: The event was set during another process's fetch.
            LoadError: Eviction cannot free enough space.
        """
        digest = manifest.digest
        with exclusive(self._lock_path(digest, "fetch"), cancelled):
            partial = self.directory / "partial" / digest
            content = partial / "content"
            content.mkdir(parents=True, exist_ok=True)
            with exclusive(self._lock_path("room"), cancelled):
                self._make_room(manifest, content)
                # From here on it counts as used space for others; a refused version never does.
                _write_manifest(partial / "manifest.json", manifest)
            yield content

    def publish(self, manifest: Manifest) -> Path:
        """Publish a version that was fetched; called within `fetching`.

        Returns:
            The directory of its files.
        """
        version = self._version(manifest.digest)
        version.parent.mkdir(parents=True, exist_ok=True)
        if version.exists():  # it is damaged: `find` has rejected it
            self._discard(version)
        partial = self.directory / "partial" / manifest.digest
        _sync_directory(partial)
        os.rename(partial, version)
        _sync_directory(version.parent)
        return version / "content"

    def drop_partial(self, digest: str) -> None:
        """Remove the fetched files of a version; called within `fetching`."""
        self._discard(self.directory / "partial" / digest)

    def total_bytes(self) -> int:
        """The size of everything in the cache, including the full size of a version that is being fetched."""
        return sum(entry.total_bytes for entry in self._entries())

    def limit_bytes(self) -> int:
        """The size limit; the size of the file system if there is no limit."""
        total = shutil.disk_usage(self.directory).total
        return total if self._max_bytes < 0 else self._max_bytes or total // 2

    def _make_room(self, manifest: Manifest, content: Path) -> None:
        have = sum(path.stat().st_size for path in content.rglob("*") if path.is_file())
        missing = max(0, manifest.total_bytes - have)
        limit = self._max_bytes or shutil.disk_usage(self.directory).total // 2
        if 0 <= limit < manifest.total_bytes:
            # Evict nothing for a version that would not fit anyway.
            self.drop_partial(manifest.digest)
            raise self._no_room(manifest, f"its limit is {limit} bytes")
        others = [entry for entry in self._entries() if entry.digest != manifest.digest]
        others.sort(key=lambda entry: entry.last_used)
        taken = sum(entry.total_bytes for entry in others) + manifest.total_bytes
        excess = taken - limit if limit >= 0 else 0
        shortage = missing - shutil.disk_usage(self.directory).free
        for entry in others:
            if excess <= 0 and shortage <= 0:
                return
            if self._evict(entry):
                excess -= entry.total_bytes
                shortage = missing - shutil.disk_usage(self.directory).free
        if excess > 0 or shortage > 0:
            if not have:
                self.drop_partial(manifest.digest)
            raise self._no_room(
                manifest,
                f"versions in use leave too little of its limit of {limit} bytes"
                if excess > 0
                else f"the disk lacks {shortage} bytes",
            )

    def _no_room(self, manifest: Manifest, reason: str) -> LoadError:
        return LoadError(
            f"There is no room for {shown(manifest.url)} with {manifest.total_bytes} bytes in "
            f"the cache {self.directory}: {reason}",
            code=Code.RESOURCE_EXHAUSTED,
        )

    def _evict(self, entry: _Entry) -> bool:
        lock = LockFile(self._lock_path(entry.digest, "claim"))
        if not lock.try_lock(shared=False):
            return False
        try:
            return self._discard(entry.path)
        finally:
            lock.close(remove=True)

    def _discard(self, path: Path) -> bool:
        # Rename first: a partly removed directory must not look like a version.
        trash = self.directory / "trash" / f"{path.name}-{uuid.uuid4().hex}"
        trash.parent.mkdir(exist_ok=True)
        try:
            os.rename(path, trash)
        except FileNotFoundError:
            return False
        shutil.rmtree(trash, ignore_errors=True)
        return True

    def _entries(self) -> list[_Entry]:
        entries = []
        for kind in ("versions", "partial"):
            for path in _children(self.directory / kind):
                with contextlib.suppress(OSError, ValueError, KeyError):
                    record = path / "manifest.json"
                    total_bytes = int(json.loads(record.read_text())["bytes"])
                    entries.append(_Entry(path, total_bytes, record.stat().st_mtime))
        for path in _children(self.directory / "trash"):
            shutil.rmtree(path, ignore_errors=True)  # left by a process that died
        return entries

    def _touch(self, digest: str) -> None:
        for kind in ("versions", "partial"):
            with contextlib.suppress(OSError):
                os.utime(self.directory / kind / digest / "manifest.json")

    def _version(self, digest: str) -> Path:
        return self.directory / "versions" / digest

    def _lock_path(self, name: str, kind: str = "") -> Path:
        directory = self.directory / "locks"
        directory.mkdir(parents=True, exist_ok=True)
        return directory / (f"{name}.{kind}" if kind else name)


def _children(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except FileNotFoundError:
        return []


def _write_manifest(path: Path, manifest: Manifest) -> None:
    document = {
        "url": shown(manifest.url),
        "bytes": manifest.total_bytes,
        "files": [
            {"path": file.path, "bytes": file.size, "revision": file.revision}
            for file in manifest.files
        ],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
