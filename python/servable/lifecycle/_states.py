"""The states of a version: those that are published, and those of its harness.

The rules are those of docs/spec/lifecycle.md §6 (harness) and §7 (published).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from servable.errors import ServableError
from servable.lifecycle._ids import ServableId


class ServableState(enum.IntEnum):
    """What the world may know of a version, with the numbers of `ModelVersionStatus.State`."""

    START = 10
    """It is taken under management."""
    LOADING = 20
    """Its loader is about to run, or has failed and will run again; the error tells which."""
    AVAILABLE = 30
    """It answers requests; published only once it really does."""
    UNLOADING = 40
    """It answers no new requests; published before it leaves."""
    END = 50
    """It is gone, or has failed; the error tells which."""


class HarnessState(enum.Enum):
    """Where a version stands between its first mention and its end; the value is for people."""

    NEW = "new"
    LOAD_REQUESTED = "load-requested"
    LOAD_APPROVED = "load-approved"
    LOADING = "loading"
    READY = "ready"
    UNLOAD_REQUESTED = "unload-requested"
    QUIESCING = "quiescing"
    QUIESCED = "quiesced"
    UNLOADING = "unloading"
    DISABLED = "disabled"
    ERROR = "error"

    @property
    def holds_resources(self) -> bool:
        """Whether the version's estimate counts as used."""
        return self not in _WITHOUT_RESOURCES

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens to the version by itself."""
        return self in (HarnessState.DISABLED, HarnessState.ERROR)


_WITHOUT_RESOURCES = frozenset(
    {
        HarnessState.NEW,
        HarnessState.LOAD_REQUESTED,
        HarnessState.DISABLED,
        HarnessState.ERROR,
    }
)

LEGAL_TRANSITIONS: Mapping[HarnessState, frozenset[HarnessState]] = MappingProxyType(
    {
        HarnessState.NEW: frozenset({HarnessState.LOAD_REQUESTED}),
        HarnessState.LOAD_REQUESTED: frozenset({HarnessState.LOAD_APPROVED, HarnessState.ERROR}),
        HarnessState.LOAD_APPROVED: frozenset({HarnessState.LOADING}),
        # Loading goes straight to unloading when nobody wants the version any more.
        HarnessState.LOADING: frozenset(
            {HarnessState.READY, HarnessState.UNLOADING, HarnessState.ERROR}
        ),
        HarnessState.READY: frozenset({HarnessState.UNLOAD_REQUESTED}),
        HarnessState.UNLOAD_REQUESTED: frozenset({HarnessState.QUIESCING}),
        HarnessState.QUIESCING: frozenset({HarnessState.QUIESCED}),
        HarnessState.QUIESCED: frozenset({HarnessState.UNLOADING}),
        HarnessState.UNLOADING: frozenset({HarnessState.DISABLED}),
        HarnessState.DISABLED: frozenset(),
        HarnessState.ERROR: frozenset(),
    }
)
"""Where each state may go; anything else is a bug and ends in ERROR."""


@dataclass(frozen=True, slots=True)
class ServableEvent:
    """A version has reached a published state.

    Attributes:
        id: The version.
        state: The state it has reached.
        error: Why it ended, or, with LOADING, why the last attempt failed; `None` while all is well
            and after a regular unload.
        servable: What answers requests; set exactly with AVAILABLE.
    """

    id: ServableId
    state: ServableState
    error: ServableError | None = None
    servable: object = None


def status_text(error: ServableError | None) -> str:
    """The one-line form of a status that logs and messages quote: `NOT_FOUND: no such file`."""
    return "OK" if error is None else f"{error.code.name}: {error.message}"
