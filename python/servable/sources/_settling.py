"""Detects version directories that are still being written.

A version that is copied into place is visible before it is complete. It is held back until it has settled. A version
has settled, whatever its format, if

- nothing in it has changed for a while,
- the directory was renamed, or its times were set, after the last change in it. Careful writers finish this way (`mv`,
  `cp -a`, `rsync -a`, `tar x`), and it costs no delay; or
- it is complete, and nothing in it has changed since the server started. Versions that were there before are therefore
  served at once.

A predicate can tell complete versions from incomplete ones, where the format is known. An incomplete version is held
back longer, but with a limit: then it is loaded, fails, and the error gives the reason.
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
"""Whether a directory holds everything that a version of some kind needs. Reads as little as possible and never
raises."""


@dataclass(frozen=True, slots=True)
class SettleTimes:
    """How long a version must be unchanged before it is served.

    Attributes:
        complete_seconds: For versions without known missing files; 0 or less does not wait.
        incomplete_seconds: For versions with missing files.
    """

    complete_seconds: float = 0.0
    incomplete_seconds: float = 10.0


class Settling:
    """Remembers which versions have settled, and the last inspection of the others.

    For one thread at a time.
    """

    def __init__(
        self,
        times: SettleTimes,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Start with no known versions.

        Args:
            times: How long to wait.
            clock: Measures the time between two inspections.
            wall_clock: The time that the times of files are compared with.
        """
        self._times = times
        self._clock = clock
        self._wall_clock = wall_clock
        self._started = wall_clock()
        self._settled: dict[str, set[str]] = {}
        self._unsettled: dict[str, dict[str, tuple[Hashable, float]]] = {}
        self._unsettled_before: dict[str, tuple[Hashable, float]] = {}

    def begin(self, name: str, paths: Iterable[str]) -> None:
        """Begin to inspect the versions of a stream.

        Args:
            name: The stream.
            paths: All existing version directories; others are forgotten.
        """
        if name in self._settled:
            self._settled[name] &= set(paths)
        # Versions that are not inspected this time are no longer aspired.
        self._unsettled_before = self._unsettled.pop(name, {})

    def holds_back(self, name: str) -> bool:
        """Whether an inspected version of the stream has not settled."""
        return name in self._unsettled

    def is_settled(self, name: str, path: str, is_complete: IsComplete | None) -> bool:
        """Whether a version may be served; once true, it stays true until the version vanishes.

        Args:
            name: The stream.
            path: The version directory.
            is_complete: Tells complete versions from incomplete ones, where the format is known.
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
            return False  # it appears or vanishes at this moment
        except OSError:
            return True  # the loader reports what is wrong
        whole = is_complete is None or is_complete(path)
        times = self._times
        needed = times.complete_seconds if whole else times.incomplete_seconds
        if whole and (look.is_sealed or look.changed_ns / 1e9 < self._started):
            return True
        age = self._wall_clock() - look.changed_ns / 1e9
        if age >= needed:
            return True
        # The clock of a file server may differ from ours; the time between two inspections does not.
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
