"""Logs problems of traffic distribution: splits with missing versions, and results of shadows."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from servable._server.server_core import ServerCore
from servable.lifecycle._states import ServableState

_log = logging.getLogger(__name__)

Statistics = Mapping[str, int | str]

_COUNTS = ("matched", "differed", "failed", "dropped", "unavailable")


class TrafficReport:
    """Checks splits and shadows periodically, and logs changes."""

    def __init__(
        self, core: ServerCore, shadow_statistics: Callable[[], Mapping[str, Statistics]]
    ) -> None:
        """Report on a core.

        Args:
            core: Serves the models.
            shadow_statistics: Returns the counts of copied requests, by model.
        """
        self._core = core
        self._shadow_statistics = shadow_statistics
        self._missing: dict[tuple[str, str], frozenset[int]] = {}
        self._counts: dict[str, tuple[int | str, ...]] = {}

    def run(self, stopping: threading.Event, period_seconds: float) -> None:
        """Check periodically until the event is set."""
        while not stopping.wait(period_seconds):
            self.look()

    def look(self) -> None:
        """Log the changes since the last check."""
        self._look_at_splits()
        self._look_at_shadows()

    def _look_at_splits(self) -> None:
        missing_now: dict[tuple[str, str], frozenset[int]] = {}
        for model in self._core.models:
            states = self._core.monitor.states(model.name)
            available = {v for v, s in states.items() if s.state is ServableState.AVAILABLE}
            for split in model.splits:
                missing = split.missing(available)
                missing_now[model.name, split.label] = missing
                if missing == self._missing.get((model.name, split.label), frozenset()):
                    continue
                where = f"label {split.label} of model {model.name}" if split.label else model.name
                if not missing:
                    _log.info("All versions of the traffic split of %s are available", where)
                    continue
                shares = ", ".join(
                    f"version {version}: {share:.1%}"
                    for version, share in split.shares(available).items()
                )
                _log.warning(
                    "The traffic split of %s lacks versions %s, which are not available; now %s",
                    where,
                    sorted(missing),
                    shares,
                )
        self._missing = missing_now

    def _look_at_shadows(self) -> None:
        counts_now: dict[str, tuple[int | str, ...]] = {}
        for name, statistics in self._shadow_statistics().items():
            counts = tuple(statistics[key] for key in _COUNTS)
            counts_now[name] = counts
            if counts == self._counts.get(name, (0,) * len(_COUNTS)):
                continue
            _log.info(
                "Shadow version %s of model %s: %s%s",
                statistics["version"],
                name,
                ", ".join(f"{key} {statistics[key]}" for key in _COUNTS),
                f"; last problem: {statistics['last_problem']}"
                if statistics["last_problem"]
                else "",
            )
        self._counts = counts_now
