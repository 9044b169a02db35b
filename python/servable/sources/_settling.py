"""Recognises version directories that are still being written.

A version that is copied into its place is there before it is complete. It is held back until it has
settled, which is seen from outside, without knowing what it is made of:

- nothing in it has changed for a while,
- the directory was renamed, or its times were set, after the last change in it. That is how careful
  writers finish (`mv`, `cp -a`, `rsync -a`, `tar x`), and costs no delay; or
- it is complete, and nothing in it has changed since the server started: what was there before is served at once.

Whoever knows what versions are made of can hand in a predicate that tells complete ones from
incomplete ones. What it calls incomplete is held back longer, but not for ever: then it is loaded,
fails, and says why.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from servable.sources._content import look_at

_log = logging.getLogger(__name__)

IsComplete: TypeAlias = Callable[[str], bool]
"""Whether a directory holds everything that a version of some kind needs; reads as little as it can
and raises nothing."""


@dataclass(frozen=True, slots=True)
class SettleTimes:
    """How long a version has to look the same before it is served.

    Attributes:
        complete_seconds: If it is complete as far as one can know; 0 or less to wait for nothing.
        incomplete_seconds: If something is missing.
    """

    complete_seconds: float = 0.0
    incomplete_seconds: float = 10.0


class Settling:
    """Remembers which versions have settled, and what those that have not looked like.

    For one thread at a time.
    """

    def __init__(
        self,
        times: SettleTimes,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Remember nothing yet.

        Args:
            times: How long to wait.
            clock: What the time between two looks is measured on.
            wall_clock: What the times of files are compared with.
        """
        self._times = times
        self._clock = clock
        self._wall_clock = wall_clock
        self._started = wall_clock()
        self._settled: dict[str, set[str]] = {}
        self._unsettled: dict[str, dict[str, tuple[Hashable, float]]] = {}
        self._unsettled_before: dict[str, tuple[Hashable, float]] = {}

    def begin(self, name: str, paths: Iterable[str]) -> None:
        """Begin to look at the versions of a stream.

        Args:
            name: The stream.
            paths: Every version directory that is there; others are forgotten.
        """
        if name in self._settled:
            self._settled[name] &= set(paths)
        # What is not looked at this time is not wanted any more.
        self._unsettled_before = self._unsettled.pop(name, {})

    def holds_back(self, name: str) -> bool:
        """Whether a version of the stream that was looked at has not settled."""
        return name in self._unsettled

    def is_settled(self, name: str, path: str, is_complete: IsComplete | None) -> bool:
        """Whether a version may be served; once it may, it may until it vanishes.

        Args:
            name: The stream.
            path: The version directory.
            is_complete: Tells complete versions from incomplete ones, if anything does.
        """
        settled = self._settled.setdefault(name, set())
        if path in settled:
            return True
        if self._has_settled(name, path, is_complete):
            settled.add(path)
        return path in settled

    def _has_settled(self, name: str, path: str, is_complete: IsComplete | None) -> bool:
        if self._times.complete_seconds <= 0 and is_complete is None:
            return True
        try:
            look = look_at(path)
        except FileNotFoundError:
            return False  # it comes or goes at this moment
        except OSError:
            return True  # it is for the loader to say what is wrong
        whole = is_complete is None or is_complete(path)
        times = self._times
        needed = times.complete_seconds if whole else times.incomplete_seconds
        if whole and (look.is_sealed or look.changed_ns / 1e9 < self._started):
            return True
        age = self._wall_clock() - look.changed_ns / 1e9
        if age >= needed:
            return True
        # The clock of a file server may differ from ours; what is seen twice does not.
        now = self._clock()
        seen, since = self._unsettled_before.get(path, (None, now))
        if seen is None:
            _log.info("Version at %s is held back while it is being written", path)
        if seen != look.fingerprint:
            since = now
        if seen is not None and now - since >= needed:
            return True
        self._unsettled.setdefault(name, {})[path] = (look.fingerprint, since)
        return False
