"""How version directories look from outside, without a file being read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_LOOK_AT_ENTRIES = 64

_TRUSTED_SECONDS = 5.0
"""For how long at most the time of a directory is trusted to tell of its entries: some file systems have it wrong."""


class Directory(NamedTuple):
    """A directory at a moment: another one in its place differs, and so does this one with other entries or access."""

    path: str
    device: int
    inode: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def at(cls, path: str) -> Directory:
        """Look at a directory, but not into it.

        Raises:
            OSError: It is not there.
        """
        return cls.of(path, os.stat(path))

    @classmethod
    def of(cls, path: str, stat: os.stat_result) -> Directory:
        """What `stat` told of a directory."""
        return cls(path, stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class Look:
    """How a directory looks from outside.

    Attributes:
        fingerprint: Differs where the content differs, or who may read it: identity, owner,
            permissions, size and time of the directory, of what is in it and of what is one level
            below.
        changed_ns: When something in it changed last, since the epoch.
        is_sealed: Whether the directory itself was renamed or given its times after that.
        directory: The directory itself, before it was looked into.
    """

    fingerprint: Hashable
    changed_ns: int
    is_sealed: bool
    directory: Directory


def look_at(path: str) -> Look:
    """Look at a directory, without reading a file; huge directories are looked at in part.

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
                    stat = entry.stat()
                except FileNotFoundError:  # a link that leads nowhere
                    stat = entry.stat(follow_symlinks=False)
                marks.append((entry.path, *_access(stat), stat.st_mtime_ns, stat.st_size))
                newest_ns = max(newest_ns, stat.st_ctime_ns)
                if depth and entry.is_dir():
                    look_into(entry.path, depth - 1)

    top = os.stat(path)
    look_into(path, 1)
    return Look(
        fingerprint=(top.st_dev, *_access(top), top.st_mtime_ns, *sorted(marks)),
        changed_ns=max(newest_ns, top.st_mtime_ns),
        is_sealed=top.st_ctime_ns > top.st_mtime_ns and top.st_ctime_ns >= newest_ns,
        directory=Directory.of(path, top),
    )


def _access(stat: os.stat_result) -> tuple[int, int, int, int]:
    """What file it is, and who may read it: a version that could not be is tried again when that changes."""
    return stat.st_ino, stat.st_mode, stat.st_uid, stat.st_gid


def _is_present(path: str) -> bool:
    return os.access(path, os.F_OK)  # half of what `stat` costs


@dataclass(frozen=True, slots=True)
class _Still:
    directories: Sequence[Directory]
    present: Sequence[str]
    good_until: float


class Stillness:
    """Knows where nothing has changed, so that polling thousands of base paths is cheap.

    Directories in which nothing had changed for a while are trusted for as long, up to 5 s, to be as they were when
    their identity and time are: that takes one look at each instead of a listing of all that is in them. Even that is
    felt with thousands of them at every poll, so this is written to do little else than the system calls.

    For one thread at a time.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Remember nothing yet.

        Args:
            clock: What the time between two looks is measured on.
            wall_clock: What the times of files are compared with.
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
        """Take for known what is in some directories.

        Args:
            name: What they belong to, such as a stream.
            directories: As they were before it was looked at what is in them.
            changed_ns: When something in them changed last, since the epoch.
            present: Paths that only have to be there, whatever becomes of them. The time of the directory that they
                are in does not tell: they may be links.
        """
        quiet_seconds = min(self._wall_clock() - changed_ns / 1e9, _TRUSTED_SECONDS)
        self._still[name] = _Still(directories, present, self._clock() + quiet_seconds)

    def forget(self, name: str) -> None:
        """Have `is_as_remembered` say no."""
        self._still.pop(name, None)

    def is_as_remembered(self, name: str) -> bool:
        """Whether what was remembered is still true, as far as it can be trusted."""
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
