from __future__ import annotations

import pytest

from servable.lifecycle import (
    Action,
    ActionKind,
    HarnessState,
    ServableId,
    VersionSnapshot,
    availability_preserving_policy,
    resource_preserving_policy,
)

NEW, LOADING, READY = HarnessState.NEW, HarnessState.LOADING, HarnessState.READY
UNLOADING, ERROR, DISABLED = HarnessState.UNLOADING, HarnessState.ERROR, HarnessState.DISABLED
Versions = list[tuple[int, HarnessState, bool]]


def snapshots(versions: Versions) -> list[VersionSnapshot]:
    return [VersionSnapshot(ServableId("m", v), state, wanted) for v, state, wanted in versions]


def action(text: str) -> Action | None:
    if text == "nothing":
        return None
    kind, version = text.split()
    return Action(ActionKind(kind), ServableId("m", int(version)))


@pytest.mark.parametrize(
    ("versions", "availability", "resource"),
    [
        ([], "nothing", "nothing"),
        ([(1, READY, False), (2, NEW, True)], "load 2", "unload 1"),
        ([(1, READY, False), (2, READY, True)], "unload 1", "unload 1"),
        ([(1, READY, False), (2, LOADING, True)], "nothing", "unload 1"),
        ([(1, UNLOADING, False), (2, NEW, True)], "load 2", "nothing"),
        ([(1, READY, False), (2, READY, False), (3, NEW, True)], "unload 1", "unload 1"),
        ([(1, READY, False)], "unload 1", "unload 1"),
        ([(1, READY, False), (2, ERROR, True)], "nothing", "unload 1"),
        ([(1, NEW, True), (2, NEW, True)], "load 2", "load 2"),
        ([(1, NEW, True), (2, LOADING, True)], "load 1", "load 1"),
        ([(1, READY, True), (2, READY, False)], "unload 2", "unload 2"),
        ([(1, DISABLED, False), (2, NEW, True)], "load 2", "load 2"),
        ([(1, ERROR, False), (2, NEW, True)], "load 2", "load 2"),
        ([(1, NEW, False)], "nothing", "nothing"),
        ([(1, READY, True), (2, NEW, True), (3, READY, False)], "unload 3", "unload 3"),
    ],
)
def test_policies_choose_as_the_table_says(
    versions: Versions, availability: str, resource: str
) -> None:
    for order in (versions, versions[::-1]):
        assert availability_preserving_policy(snapshots(order)) == action(availability)
        assert resource_preserving_policy(snapshots(order)) == action(resource)
