"""Waits for the effects of a configuration change.

It waits for new models unless they have no version. Such a model is reported as a problem, and served once a version
appears.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from servable.errors import CancelledError, NotFoundError, ServableError, UnavailableError
from servable.lifecycle._ids import ServableId
from servable.lifecycle._monitor import StateMonitor
from servable.lifecycle._states import ServableState, status_text

_log = logging.getLogger(__name__)

_RECHECK_SECONDS = 1.0
"""How often it is checked whether models still have versions to wait for, in seconds."""


class ChangeUnderWay:
    """The added and removed models of one change, until they serve or have gone."""

    def __init__(
        self,
        added: Collection[str],
        removed: Collection[str],
        monitor: StateMonitor,
        fresh: StateMonitor,
        *,
        is_configured: Callable[[str], bool],
        problems: Callable[[], Mapping[str, ServableError]],
        is_stopping: Callable[[], bool],
    ) -> None:
        """Begin to follow a change that is about to be made.

        Args:
            added: The new models.
            removed: The models that are no longer configured.
            monitor: Records the state of every version.
            fresh: Records the states since the change; closed when the change is complete.
            is_configured: Whether a model is in the current configuration, which later changes may have replaced.
            problems: Returns the reasons why models have no versions.
            is_stopping: Whether the server is shutting down.
        """
        self._added = added
        self._removed = removed
        self._monitor = monitor
        self._fresh = fresh
        self._is_configured = is_configured
        self._problems = problems
        self._is_stopping = is_stopping
        self._outcomes: dict[str, _Outcome] = {}
        self._is_cancelled = False

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller stopped waiting before the change was complete."""
        return self._is_cancelled

    def close(self) -> None:
        """Stop following the change."""
        self._fresh.close()

    def awaited(self) -> Collection[str]:
        """The new models that neither serve nor have failed."""
        awaited = self._awaited()
        if not awaited:
            self.close()
        return awaited

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until each new model serves or has failed, and removed models answer nothing.

        Returns:
            Whether that was in time; if not, it may be waited for again.

        Raises:
            NotFoundError: New models have no versions.
            CancelledError: A new model was removed again before it served.
            UnavailableError: The server is shutting down.
            ServableError: A new model failed to load.
        """
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        have_left = self._wait_until(
            lambda: not any(map(self._is_leaving, self._removed)), self._monitor, end
        )
        if not (have_left and self._wait_until(lambda: not self._awaited(), self._fresh, end)):
            return False
        self.close()
        failed = [outcome for outcome in self._outcomes.values() if outcome.error is not None]
        if failed and all(outcome.version is None for outcome in failed):
            text = "; ".join(str(outcome.error) for outcome in failed)
            first = failed[0].error
            raise CancelledError(text) if isinstance(first, CancelledError) else NotFoundError(text)
        if failed:
            raise did_not_become_available("model", [(o.subject, o.error) for o in failed])
        if self._added or self._removed:
            _log.info("Finished adding/updating models")
        return True

    def wait_unless_cancelled(
        self, is_cancelled: Callable[[], bool], look_seconds: float = _RECHECK_SECONDS
    ) -> bool:
        """Like `wait`, until the caller cancels; running loads continue.

        Args:
            is_cancelled: Whether the caller no longer waits.
            look_seconds: How often it is called.

        Returns:
            Whether the change is complete.
        """
        while not self.wait(look_seconds):
            if is_cancelled():
                self._is_cancelled = True
                return False
        return True

    def _awaited(self) -> Collection[str]:
        for name in self._added:
            if name not in self._outcomes and (outcome := self._outcome(name)):
                self._outcomes[name] = outcome
        return [name for name in self._added if name not in self._outcomes]

    def _wait_until(
        self, condition: Callable[[], bool], monitor: StateMonitor, end: float | None
    ) -> bool:
        while True:
            remaining = _RECHECK_SECONDS if end is None else max(0.0, end - time.monotonic())
            if monitor.wait_for(condition, min(_RECHECK_SECONDS, remaining)):
                return True
            if self._is_stopping():
                raise UnavailableError("The server is shutting down")
            if not remaining:
                return False

    def _is_leaving(self, name: str) -> bool:
        """Whether a removed model still answers, and has not been added again."""
        states = self._monitor.states(name).values()
        is_served = any(recorded.state is ServableState.AVAILABLE for recorded in states)
        return is_served and not self._is_configured(name)

    def _outcome(self, name: str) -> _Outcome | None:
        states = self._fresh.states(name)
        if any(recorded.state is ServableState.AVAILABLE for recorded in states.values()):
            return _Outcome(name)
        if not self._is_configured(name):
            return _Outcome(
                name, None, CancelledError(f"Model {name} was removed before it served")
            )
        if any(recorded.state is not ServableState.END for recorded in states.values()):
            return None
        # A version that ended without an error was being unloaded.
        for version, recorded in states.items():
            if recorded.error is not None:
                return _Outcome(name, version, recorded.error)
        problem = self._problems().get(name)
        return None if problem is None else _Outcome(name, None, problem)


@dataclass(frozen=True, slots=True)
class _Outcome:
    name: str
    version: int | None = None
    error: ServableError | None = None

    @property
    def subject(self) -> str:
        return self.name if self.version is None else str(ServableId(self.name, self.version))


def did_not_become_available(
    what: str, failed: Sequence[tuple[str, ServableError | None]]
) -> ServableError:
    """The error that lists the failures, in the words of TensorFlow Serving."""
    entries = "".join(
        f"{{{subject} due to error: {status_text(error)}}}, " for subject, error in failed
    )
    return ServableError(f"{len(failed)} {what}(s) did not become available: {{{entries}}}")
