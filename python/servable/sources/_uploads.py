"""Recognises remote versions that are still being uploaded.

A store shows whole objects only, but a version object by object. It is held back

- while one of the files is missing without which it is not complete; and
- until none of its objects is new, by the store's own times; where those are ahead of our clock, or there
  are none, until it has looked the same for as long.

Where a store tells no times, a version counts as unchanged since the listing that found it, and those that the
first listing found as old: most such stores publish a version in one step. What was whole before the server started, by
the store's times and by what the first listing found, is not held back. What stays incomplete is held back
longer, but not for ever: then it is fetched, fails, and says why.
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
"""How old the newest object has to be, by times of which some stores tell whole seconds only."""
INCOMPLETE_SECONDS = 60.0
"""The same for a version that lacks a file: what is missing may be large, and is not seen while it comes."""

HasAllFiles: TypeAlias = Callable[[Collection[str], Callable[[str], ForwardReader] | None], bool]
"""Whether files with these paths, relative to a version's directory and with `/`, are all that a version of some
kind needs. The second argument opens one of them, which raises nothing before it is read; only names count without
it."""


class _Look(NamedTuple):
    """What a version looked like, and since when."""

    digest: str
    modified_seconds: float | None
    since: float
    is_whole: bool


class Uploads:
    """Remembers which versions of one base path were complete, and what those that are not looked like.

    Safe to use from several threads.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        started_seconds: float = -math.inf,
    ) -> None:
        """Remember nothing yet.

        Args:
            clock: What the time between two looks is measured on.
            wall_clock: What the times of objects are compared with.
            started_seconds: When the server started, on `wall_clock`.
        """
        self._started_seconds = started_seconds
        self._clock = clock
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        # When a listing found each version first, on the clock; nothing before the first listing.
        self._appeared: dict[str, float] | None = None
        self._complete: set[str] = set()
        self._incomplete: dict[str, _Look] = {}

    def keep(self, urls: Collection[str]) -> None:
        """Forget all versions but these, which a listing has found."""
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
        """Whether a version may be fetched; once it may, it may until it vanishes.

        Args:
            manifest: Its files.
            has_all_files: Tells complete versions from incomplete ones, if anything does; asked once for each
                content, as it may have to read.
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
