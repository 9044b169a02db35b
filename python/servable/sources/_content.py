"""Fingerprints of version directories, taken without reading a file."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_LOOK_AT_ENTRIES = 64

_TRUSTED_SECONDS = 5.0
"""How long the modification time of a directory is trusted at most: some file systems do not maintain it."""


class Directory(NamedTuple):
    """The state of a directory: differs after its replacement, and after a change of its entries or access rights."""

    path: str
    device: int
    inode: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def at(cls, path: str) -> Directory:
        """Stat a directory, without listing it.

        Raises:
            OSError: It does not exist.
        """
        return cls.of(path, os.stat(path))

    @classmethod
    def of(cls, path: str, found: os.stat_result) -> Directory:
        """A directory from the result of `stat`."""
        return cls(path, found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class Look:
    """The result of one inspection of a directory.

    Attributes:
        fingerprint: Differs if the content or its access rights differ. Covers identity, owner, permissions, size and
            time of the directory, of its entries and of theirs.
        changed_ns: The newest change of an entry, in nanoseconds since the epoch.
        is_sealed: Whether the directory itself was renamed, or its times were set, after that.
        directory: The directory itself, before it was inspected.
    """

    fingerprint: Hashable
    changed_ns: int
    is_sealed: bool
    directory: Directory


def look_at(path: str) -> Look:
    """Inspect a directory without reading a file; of huge directories only a part. A single file has no entries.

    Raises:
        OSError: It cannot be listed.
    """
    marks: list[tuple[str, int, int, int, int, int, int]] = []
    newest_ns = 0

    def look_into(directory: str, depth: int) -> None:
        nonlocal newest_ns
        with os.scandir(directory) as entries:
            for entry in entries:
                if len(marks) >= _LOOK_AT_ENTRIES:
                    return
                try:
                    found = entry.stat()
                except FileNotFoundError:  # a dangling link
                    found = entry.stat(follow_symlinks=False)
                marks.append((entry.path, *_access(found), found.st_mtime_ns, found.st_size))
                newest_ns = max(newest_ns, found.st_ctime_ns)
                if depth and entry.is_dir():
                    look_into(entry.path, depth - 1)

    top = os.stat(path)
    if not stat.S_ISREG(top.st_mode):
        look_into(path, 1)
    return Look(
        fingerprint=(top.st_dev, *_access(top), top.st_mtime_ns, *sorted(marks)),
        changed_ns=max(newest_ns, top.st_mtime_ns),
        is_sealed=top.st_ctime_ns > top.st_mtime_ns and top.st_ctime_ns >= newest_ns,
        directory=Directory.of(path, top),
    )


def _access(found: os.stat_result) -> tuple[int, int, int, int]:
    """Identity and access rights: a version that was unreadable is retried when these change."""
    return found.st_ino, found.st_mode, found.st_uid, found.st_gid


def _is_present(path: str) -> bool:
    return os.access(path, os.F_OK)  # half the cost of `stat`


@dataclass(frozen=True, slots=True)
class _Still:
    directories: Sequence[Directory]
    present: Sequence[str]
    good_until: float


class Stillness:
    """Remembers unchanged directories, so that polling thousands of base paths is cheap.

    A directory is trusted to be unchanged while its identity and modification time are. The trust lasts as long as it
    had been unchanged before, at most 5 s. This takes one `stat` in place of a listing of everything inside. With
    thousands of base paths even that costs noticeable time at each poll, so this code does little else than system
    calls.

    For one thread at a time.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Start with no known directories.

        Args:
            clock: Measures the time between two inspections.
            wall_clock: The time that the times of files are compared with.
        """
        self._clock = clock
        self._wall_clock = wall_clock
        self._still: dict[str, _Still] = {}

    def remember(
        self,
        name: str,
        directories: Sequence[Directory],
        changed_ns: int,
        present: Sequence[str] = (),
    ) -> None:
        """Remember the state of some directories.

        Args:
            name: The key, such as the name of a stream.
            directories: The directories, taken before their entries were inspected.
            changed_ns: The newest change of an entry, in nanoseconds since the epoch.
            present: Paths that only have to exist. The time of their parent directory does not show that: they may be
                links.
        """
        quiet_seconds = min(self._wall_clock() - changed_ns / 1e9, _TRUSTED_SECONDS)
        self._still[name] = _Still(directories, present, self._clock() + quiet_seconds)

    def forget(self, name: str) -> None:
        """Make `is_as_remembered` return false."""
        self._still.pop(name, None)

    def is_as_remembered(self, name: str) -> bool:
        """Whether the remembered state still holds, within the time that it is trusted."""
        still = self._still.get(name)
        if still is None or self._clock() >= still.good_until:
            return False
        try:
            for directory in still.directories:
                if Directory.at(directory.path) != directory:
                    return False
        except OSError:
            return False
        return all(map(_is_present, still.present))
