"""Recognises remote versions that are still being uploaded.

A store shows whole objects only, but a version object by object. It is held back until none of its objects is new, by
the store's own times; where those are ahead of our clock, until it has looked the same for as long. Stores that tell no
times are taken at their word, as most of those publish a version in one step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from servable.remote.manifest import Manifest

SETTLE_SECONDS = 3.0
"""How old the newest object has to be, by times of which some stores tell whole seconds only."""


class Uploads:
    """Remembers which versions were complete, and what those that are not looked like. For one thread at a time."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Remember nothing yet.

        Args:
            clock: What the time between two looks is measured on.
            wall_clock: What the times of objects are compared with.
        """
        self._clock = clock
        self._wall_clock = wall_clock
        self._complete: set[str] = set()
        self._seen: dict[str, tuple[tuple[str, float | None], float]] = {}

    def keep(self, urls: Collection[str]) -> None:
        """Forget all versions but these."""
        self._complete.intersection_update(urls)
        self._seen = {url: seen for url, seen in self._seen.items() if url in urls}

    def is_complete(self, manifest: Manifest) -> bool:
        """Whether a version may be fetched; once it may, it may until it vanishes."""
        url, modified = manifest.url, manifest.modified_seconds
        if url in self._complete:
            return True
        now, look = self._clock(), (manifest.digest, modified)
        seen, since = self._seen.get(url, (look, now))
        if seen != look:
            since = now
        self._seen[url] = (look, since)
        if (
            modified is None
            or self._wall_clock() - modified >= SETTLE_SECONDS
            or now - since >= SETTLE_SECONDS
        ):
            self._complete.add(url)
            del self._seen[url]
        return url in self._complete
