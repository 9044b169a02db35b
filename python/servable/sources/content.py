"""How the content of version directories looks from outside, without a file being read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

_LOOK_AT_ENTRIES = 64

_TRUSTED_SECONDS = 10.0
"""How long a look at what has been quiet is good for."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a directory looks from outside.

    Attributes:
        fingerprint: Differs where the content differs, or who may read it: identity, owner,
            permissions, size and time of the directory, of what is in it and of what is one level
            below.
        changed_ns: When something in it changed last, since the epoch.
        is_sealed: Whether the directory itself was renamed or given its times after that.
    """

    fingerprint: Hashable
    changed_ns: int
    is_sealed: bool


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
    )


def _access(stat: os.stat_result) -> tuple[int, int, int, int]:
    """What file it is, and who may read it: a version that could not be is tried again when that changes."""
    return stat.st_ino, stat.st_mode, stat.st_uid, stat.st_gid


@dataclass(frozen=True, slots=True)
class _Seen:
    fingerprint: Hashable
    directory: tuple[int, ...]
    good_until: float


class Fingerprints:
    """The fingerprints of many versions, polled again and again at a small cost.

    The directory of a version is asked every time whether it is another one, or has got other entries. It is looked
    into again when it has, and otherwise after as long as nothing in it had changed at the last look, but after 10 s
    at the latest.

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
        self._seen: dict[str, dict[str, _Seen]] = {}

    def of(self, name: str, paths: Iterable[str]) -> list[Hashable]:
        """The fingerprints of the versions of a stream; those of others of its versions are forgotten.

        Args:
            name: The stream.
            paths: The directories of its versions.

        Returns:
            `Look.fingerprint` of each; `None` while the directory changes under our eyes: whatever it becomes will
            look different.
        """
        before = self._seen.get(name, {})
        now = self._clock()
        seen = {path: self._look_again(path, before.get(path), now) for path in paths}
        self._seen[name] = {path: found for path, found in seen.items() if found is not None}
        return [None if found is None else found.fingerprint for found in seen.values()]

    def forget(self, name: str) -> None:
        """Forget a stream."""
        self._seen.pop(name, None)

    def _look_again(self, path: str, before: _Seen | None, now: float) -> _Seen | None:
        try:
            stat = os.stat(path)
            directory = (stat.st_dev, *_access(stat), stat.st_mtime_ns)
            if before is not None and before.directory == directory and now < before.good_until:
                return before
            look = look_at(path)
        except OSError:
            return None
        quiet_seconds = self._wall_clock() - look.changed_ns / 1e9
        return _Seen(look.fingerprint, directory, now + min(quiet_seconds, _TRUSTED_SECONDS))
