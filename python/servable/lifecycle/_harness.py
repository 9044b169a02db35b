"""One version's state machine, with retries and cancellation (docs/spec/lifecycle.md §6 and §11).

The harness makes no decisions: the manager calls its transitions in order, from one thread at a time per version. A
transition that is illegal in the current state is refused.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeAlias

from servable.errors import BackendError, CancelledError, FailedPreconditionError, ServableError
from servable.lifecycle._ids import ServableId
from servable.lifecycle._loader import Loader, Preparable, Servable
from servable.lifecycle._states import LEGAL_TRANSITIONS, HarnessState, status_text

_log = logging.getLogger(__name__)

Wait: TypeAlias = Callable[[threading.Event, float], object]
"""Waits until an event is set, or a number of seconds has passed; for example `threading.Event.wait`."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a failed load is repeated. Failures that waiting cannot cure are not (`ServableError.may_pass`).

    Attributes:
        max_retries: Attempts after the first; less than 0 counts as 0.
        interval_seconds: The pause before each retry; 0 or less for none.
    """

    max_retries: int = 5
    interval_seconds: float = 60.0


class LoaderHarness:
    """The state machine of one version.

    Attributes:
        id: The version.
        fingerprint: The fingerprint of the content at the last attempt to load.
        is_aspired: Whether the version is aspired; only the manager changes it.
    """

    def __init__(
        self,
        servable_id: ServableId,
        item: Loader | ServableError,
        *,
        fingerprint: Hashable = None,
        configuration: object = None,
        retry: RetryPolicy | None = None,
        wait: Wait = threading.Event.wait,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Make a harness in NEW, or in ERROR if an error is given in place of a loader.

        Args:
            servable_id: The version.
            item: Its loader, or the reason why it has none.
            fingerprint: The fingerprint of the content that the loader was made for.
            configuration: The configuration that the loader uses.
            retry: How often a failed load is repeated.
            wait: How to pause between attempts.
            wall_clock: Gives the time of the next attempt in error messages.
        """
        self.id = servable_id
        self.fingerprint = fingerprint
        self.is_aspired = True
        self._retry = retry or RetryPolicy()
        self._wait = wait
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._cancelled = threading.Event()
        self._content_changed = False
        self._new_fingerprint = fingerprint
        self._configuration = configuration
        self._loader: Loader | None = None
        self._next_loader: Loader | None = None
        self._error: ServableError | None = None
        self._last_failure: ServableError | None = None
        self._state = HarnessState.NEW
        if isinstance(item, ServableError):
            self._error = item
            self._state = HarnessState.ERROR
        else:
            self._loader = item

    @property
    def state(self) -> HarnessState:
        """The current state."""
        return self._state

    @property
    def error(self) -> ServableError | None:
        """Why the version is in ERROR."""
        return self._error

    @property
    def last_failure(self) -> ServableError | None:
        """Why the last attempt to load failed, while further attempts are due."""
        return self._last_failure

    @property
    def loader(self) -> Loader:
        """The version's loader; missing if the version was an error from the start."""
        if self._loader is None:
            raise FailedPreconditionError(f"{self.id} has no loader")
        return self._loader

    @property
    def servable(self) -> Servable:
        """The loaded servable."""
        return self.loader.servable

    def request_load(self) -> None:
        """NEW → LOAD_REQUESTED.

        Raises:
            FailedPreconditionError: It is not NEW.
        """
        with self._lock:
            if self._state is not HarnessState.NEW:
                raise FailedPreconditionError("Duplicate load request")
            self._state = HarnessState.LOAD_REQUESTED

    def approve_load(self) -> None:
        """LOAD_REQUESTED → LOAD_APPROVED: resources are reserved."""
        _log.info("Approving load for servable version %s", self.id)
        self._transition(HarnessState.LOAD_APPROVED)

    def load(
        self,
        make_available: Callable[[], None],
        slot: contextlib.AbstractContextManager[object] | None = None,
        report: Callable[[ServableError], None] = lambda failure: None,
    ) -> None:
        """LOAD_APPROVED → LOADING → READY, with up to as many attempts as the retry policy allows.

        Args:
            make_available: Called when the version is loaded and not cancelled, before it is READY. A READY version
                therefore answers requests.
            slot: Held during each attempt, but not in the pauses between them: a version that waits for its retry does
                not block others.
            report: Called when an attempt has failed and another one follows, and again when that one begins. The
                message gives the number of the attempt, and the time of the next one.

        Raises:
            CancelledError: The load was cancelled; the version is DISABLED or in ERROR.
            ServableError: Every attempt has failed, or waiting cannot help. This is the last attempt's error, also in
                `error`.
        """
        self._transition(HarnessState.LOADING)
        _log.info("Loading servable version %s", self.id)
        try:
            self._attempt_until_loaded(slot or contextlib.nullcontext(), report)
        except ServableError as error:
            self.fail(error)
            raise
        with self._lock:
            is_cancelled = self._cancelled.is_set()
        if is_cancelled:
            self._transition(HarnessState.UNLOADING)
            self._unload()
            raise CancelledError("Loading of servable cancelled")
        make_available()
        self._transition(HarnessState.READY)
        _log.info("Successfully loaded servable version %s", self.id)

    def cancel_load(self) -> None:
        """Make no further attempt to load, and end a pause between attempts at once.

        A running attempt continues to its end; if it succeeds, the version is unloaded again.
        """
        with self._lock:
            self._cancelled.set()
        self._wake.set()

    def hasten_retry(self, fingerprint: Hashable) -> None:
        """The content has changed: end a pause between attempts now, and restart the count of attempts."""
        with self._lock:
            self._new_fingerprint = fingerprint
            self._content_changed = True
        self._wake.set()

    def reconfigure(self, item: Loader | ServableError, configuration: object) -> None:
        """Use another loader from the next attempt on, if the configuration differs.

        Args:
            item: A loader of the same version; an error changes nothing.
            configuration: The configuration that this loader uses.
        """
        with self._lock:
            if configuration == self._configuration or isinstance(item, ServableError):
                return
            self._configuration = configuration
            self._next_loader = item

    def forget_failure(self) -> None:
        """Clear `last_failure`; it then reports only later attempts."""
        self._last_failure = None

    def request_unload(self) -> None:
        """READY → UNLOAD_REQUESTED.

        Raises:
            FailedPreconditionError: It is not READY.
        """
        with self._lock:
            if self._state is not HarnessState.READY:
                raise FailedPreconditionError(
                    "Servable not loaded, or unload already requested/ongoing"
                )
            self._state = HarnessState.UNLOAD_REQUESTED

    def start_quiescing(self) -> None:
        """UNLOAD_REQUESTED → QUIESCING: no new request gets the version."""
        _log.info("Quiescing servable version %s", self.id)
        self._transition(HarnessState.QUIESCING)

    def done_quiescing(self) -> None:
        """QUIESCING → QUIESCED: no request holds the version."""
        _log.info("Done quiescing servable version %s", self.id)
        self._transition(HarnessState.QUIESCED)

    def unload(self) -> None:
        """QUIESCED → UNLOADING → DISABLED.

        Raises:
            ServableError: The loader failed; the version is DISABLED all the same.
        """
        self._transition(HarnessState.UNLOADING)
        self._unload()

    def fail(self, error: ServableError) -> None:
        """Go to ERROR."""
        _log.info("Encountered an error for servable version %s: %s", self.id, status_text(error))
        with self._lock:
            self._error = error
            self._state = HarnessState.ERROR

    def _attempt_until_loaded(
        self,
        slot: contextlib.AbstractContextManager[object],
        report: Callable[[ServableError], None],
    ) -> None:
        retries = max(0, self._retry.max_retries)
        interval = self._retry.interval_seconds
        retry = 0
        while (error := self._attempt(slot)) is not None:
            _log.error("Loading servable: %s failed: %s", self.id, status_text(error))
            if retry < retries and error.may_pass:
                self._last_failure = error
                if interval > 0:
                    due = time.strftime(
                        "%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._wall_clock() + interval)
                    )
                    text = (
                        f"attempt {retry + 1} of {retries + 1} failed, the next one is due at {due}"
                    )
                    report(ServableError(f"{text}: {error.message}", code=error.code))
                    self._wait(self._wake, interval)
            with self._lock:
                # Changed content restarts the count: a directory that is still being written must not use up the
                # attempts that are needed once it is complete.
                is_new, cancelled = self._content_changed, self._cancelled.is_set()
            if cancelled:
                _log.info("Retrying of Loading servable: %s was cancelled.", self.id)
                raise error
            if not (is_new or error.may_pass):
                _log.info("Loading servable: %s is not retried: waiting cannot help", self.id)
                raise error
            retry = min(1, retries) if is_new else retry + 1
            if retry > retries:
                _log.info(
                    "Retrying of Loading servable: %s exhausted max_num_retries: %d",
                    self.id,
                    retries,
                )
                raise error
            _log.info("Retrying of Loading servable: %s retry: %d", self.id, retry)
            text = f"attempt {retry + 1} of {retries + 1} is under way, the one before failed"
            report(ServableError(f"{text}: {error.message}", code=error.code))

    def _attempt(self, slot: contextlib.AbstractContextManager[object]) -> ServableError | None:
        """Try to load once.

        Returns:
            Why that failed; `None` for success.
        """
        while True:
            prepared = self._newest_loader()
            if isinstance(prepared, Preparable):
                self._begin_attempt()
                try:
                    prepared.prepare()
                except Exception as raised:  # the loader's border
                    return _as_servable_error(raised)
            with slot:
                loader = self._newest_loader()
                is_preparable = isinstance(loader, Preparable)
                if is_preparable and loader is not prepared:
                    continue  # reconfigured while it was prepared or waited for a slot
                self._begin_attempt(is_prepared=is_preparable)
                try:
                    loader.load()
                    self._last_failure = None
                except Exception as raised:  # the loader's border
                    return _as_servable_error(raised)
            return None

    def _newest_loader(self) -> Loader:
        with self._lock:
            if self._next_loader is not None:
                self._loader, self._next_loader = self._next_loader, None
        return self.loader

    def _begin_attempt(self, *, is_prepared: bool = False) -> None:
        with self._lock:
            if self._cancelled.is_set():
                raise CancelledError("Loading of servable cancelled")
            if not is_prepared:
                # A later change applies to the next attempt.
                self._content_changed = False
                self.fingerprint = self._new_fingerprint
                self._wake.clear()

    def _unload(self) -> None:
        _log.info("Unloading servable version %s", self.id)
        try:
            self.loader.unload()
        except Exception as raised:  # the loader's border
            raise _as_servable_error(raised) from raised
        finally:
            self._transition(HarnessState.DISABLED)
            # The loader may hold the last reference to the servable's memory.
            self._loader = self._next_loader = None
        _log.info("Done unloading servable version %s", self.id)

    def _transition(self, to: HarnessState) -> None:
        with self._lock:
            self._move(to)

    def _move(self, to: HarnessState) -> None:
        if to not in LEGAL_TRANSITIONS[self._state]:
            error = BackendError(
                f"Illegal request to transition from state {self._state.value} to {to.value}"
            )
            self._state, self._error = HarnessState.ERROR, error
            raise error
        self._state = to


def _as_servable_error(raised: Exception) -> ServableError:
    if isinstance(raised, ServableError):
        return raised
    return BackendError(f"{type(raised).__name__}: {raised}")
