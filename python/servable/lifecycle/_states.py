"""The states of a version: the published ones, and those of its harness.

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
    """The published states, with the numbers of `ModelVersionStatus.State`."""

    START = 10
    """It is managed, but not yet loading."""
    LOADING = 20
    """Its loader is about to run, or has failed and will run again; with `error` in the second case."""
    AVAILABLE = 30
    """It answers requests; published only once that is true."""
    UNLOADING = 40
    """It gets no new requests; published before it is unloaded."""
    END = 50
    """It is unloaded, or has failed; with `error` in the second case."""


class HarnessState(enum.Enum):
    """The internal states of a version, from first mention to end; the value is for logs."""

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
        """Whether the version's estimate counts as used memory."""
        return self not in _WITHOUT_RESOURCES

    @property
    def is_final(self) -> bool:
        """Whether the state has no further transitions."""
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
        # A cancelled load goes straight to unloading.
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
"""The legal transitions; any other is a bug and ends in ERROR."""


@dataclass(frozen=True, slots=True)
class ServableEvent:
    """A version has reached a published state.

    Attributes:
        id: The version.
        state: The state it has reached.
        error: Why the version ended, or, with LOADING, why the last attempt failed. `None` without failures, and after
            a regular unload.
        servable: Answers requests; set only with AVAILABLE.
    """

    id: ServableId
    state: ServableState
    error: ServableError | None = None
    servable: object = None


def status_text(error: ServableError | None) -> str:
    """A status in one line, as logs and messages quote it: `NOT_FOUND: no such file`."""
    return "OK" if error is None else f"{error.code.name}: {error.message}"
