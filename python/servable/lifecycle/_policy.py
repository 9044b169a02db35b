"""Policies: the next step for the versions of one stream (docs/spec/lifecycle.md §10).

A policy is a function from the states of a stream's versions to one action, or none. It has no clock, no state and no
I/O; the manager calls it again after every change.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from servable.lifecycle._ids import ServableId
from servable.lifecycle._states import HarnessState


@dataclass(frozen=True, slots=True)
class VersionSnapshot:
    """The facts about a version that a policy may use."""

    id: ServableId
    state: HarnessState
    is_aspired: bool


class ActionKind(enum.Enum):
    """The two kinds of steps."""

    LOAD = "load"
    UNLOAD = "unload"


@dataclass(frozen=True, slots=True)
class Action:
    """One step: load a NEW version, or unload a READY one."""

    kind: ActionKind
    id: ServableId


AspiredVersionPolicy: TypeAlias = Callable[[Sequence[VersionSnapshot]], Action | None]
"""Takes every managed version of one stream, in any order; returns the next step, if any."""


def availability_preserving_policy(versions: Sequence[VersionSnapshot]) -> Action | None:
    """Load new versions before old ones are unloaded: a stream that serves continues to serve.

    The last ready version stays until an aspired one is ready, even if that never happens. During a change both are in
    memory.
    """
    obsolete = _obsolete(versions)
    aspired = [version for version in versions if version.is_aspired]
    replaceable = (
        not aspired
        or any(version.state is HarnessState.READY for version in aspired)
        or len(obsolete) > 1
    )
    if obsolete and replaceable:
        return _unload_lowest(obsolete)
    return _load_highest(aspired)


def resource_preserving_policy(versions: Sequence[VersionSnapshot]) -> Action | None:
    """Unload old versions before new ones are loaded: memory never holds more than the aspired versions.

    The stream may serve nothing for a while.
    """
    obsolete = _obsolete(versions)
    if obsolete:
        return _unload_lowest(obsolete)
    if any(not version.is_aspired and not version.state.is_final for version in versions):
        return None
    return _load_highest([version for version in versions if version.is_aspired])


def _obsolete(versions: Sequence[VersionSnapshot]) -> list[VersionSnapshot]:
    return [v for v in versions if not v.is_aspired and v.state is HarnessState.READY]


def _unload_lowest(versions: Sequence[VersionSnapshot]) -> Action:
    return Action(ActionKind.UNLOAD, min(version.id for version in versions))


def _load_highest(versions: Sequence[VersionSnapshot]) -> Action | None:
    new = [version.id for version in versions if version.state is HarnessState.NEW]
    return Action(ActionKind.LOAD, max(new)) if new else None
