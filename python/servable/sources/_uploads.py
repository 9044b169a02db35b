"""Detects remote versions that are still being uploaded.

Stores publish complete objects, but the objects of a version appear one by one. A version is held back

- while a required file is missing; and
- until none of its objects is new, by the store's times. Where those are ahead of our clock, or missing, the version
  must be unchanged for the same time.

Where a store has no times, a version counts as unchanged since the listing that found it. Versions in the first listing
count as old: most such stores publish a version in one step. A version that was complete before the server started, by
the store's times and by the first listing, is not held back. An incomplete version is held back longer, but with a
limit: then it is fetched, fails, and the error gives the reason.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection
from typing import NamedTuple, TypeAlias

from servable._server.remote.manifest import Manifest
from servable._server.remote.store import ForwardReader

SETTLE_SECONDS = 3.0
"""The minimum age of the newest object in seconds; some stores give times in whole seconds only."""
INCOMPLETE_SECONDS = 60.0
"""The same for a version with a missing file: that file may be large, and is invisible during its upload."""

HasAllFiles: TypeAlias = Callable[[Collection[str], Callable[[str], ForwardReader] | None], bool]
"""Whether files with these paths, relative to a version's directory and with `/`, are everything that a version of some
kind needs. The second argument opens one of them; it raises nothing before the file is read. Without it only names
count."""


class _Look(NamedTuple):
    """The state of a version, and since when it has been unchanged."""

    digest: str
    modified_seconds: float | None
    since: float
    is_whole: bool


class Uploads:
    """Remembers which versions of one base path were complete, and the last state of the others.

    Safe to use from several threads.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        started_seconds: float = -math.inf,
    ) -> None:
        """Start with no known versions.

        Args:
            clock: Measures the time between two listings.
            wall_clock: The time that the times of objects are compared with.
            started_seconds: When the server started, on `wall_clock`.
        """
        self._started_seconds = started_seconds
        self._clock = clock
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        # When a listing first found each version, on the clock; empty before the first listing.
        self._appeared: dict[str, float] | None = None
        self._complete: set[str] = set()
        self._incomplete: dict[str, _Look] = {}

    def keep(self, urls: Collection[str]) -> None:
        """Forget all versions except these, which a listing has found."""
        with self._lock:
            now = -math.inf if self._appeared is None else self._clock()
            before = self._appeared or {}
            self._appeared = {url: before.get(url, now) for url in urls}
            self._complete.intersection_update(urls)
            self._incomplete = {
                url: self._incomplete[url] for url in self._incomplete.keys() & {*urls}
            }

    def is_complete(
        self, manifest: Manifest, has_all_files: Callable[[], bool] | None = None
    ) -> bool:
        """Whether a version may be fetched; once true, it stays true until the version vanishes.

        Args:
            manifest: Its files.
            has_all_files: Tells complete versions from incomplete ones, where the format is known. Called once for each
                content, because it may have to read files.
        """
        url = manifest.url
        with self._lock:
            if url in self._complete:
                return True
            before = self._incomplete.get(url)
        if before is not None and before.digest == manifest.digest:
            is_whole = before.is_whole
        else:
            is_whole = has_all_files is None or has_all_files()
        with self._lock:
            if self._has_settled(manifest, is_whole):
                self._complete.add(url)
                self._incomplete.pop(url, None)
            return url in self._complete

    def _has_settled(self, manifest: Manifest, is_whole: bool) -> bool:
        url, now, modified = manifest.url, self._clock(), manifest.modified_seconds
        if is_whole and self._was_before_the_start(url, modified):
            return True
        before = self._incomplete.get(url)
        look = _Look(manifest.digest, modified, now, is_whole)
        if before is not None and before[:2] == look[:2]:
            look = before
        elif before is None and modified is None and is_whole:
            look = look._replace(since=(self._appeared or {}).get(url, now))
        self._incomplete[url] = look
        needed = SETTLE_SECONDS if is_whole else INCOMPLETE_SECONDS
        age = 0.0 if modified is None else self._wall_clock() - modified
        return max(age, now - look.since) >= needed

    def _was_before_the_start(self, url: str, modified: float | None) -> bool:
        is_of_first_listing = (self._appeared or {}).get(url) == -math.inf
        return is_of_first_listing and modified is not None and modified < self._started_seconds
