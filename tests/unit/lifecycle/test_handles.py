from __future__ import annotations

from collections.abc import Iterator

import pytest

from servable.errors import NotFoundError
from servable.lifecycle import (
    AspiredVersion,
    AspiredVersionsManager,
    EventBus,
    Loader,
    ObjectLoader,
    ServableHandles,
    ServableId,
    ServableState,
    StateMonitor,
)
from servable.testing import FakeLoader


class Served:
    """Dictionaries, served by a running manager."""

    def __init__(self) -> None:
        self.bus = EventBus()
        self.monitor = StateMonitor(self.bus)
        self.handles = ServableHandles()
        self.manager = AspiredVersionsManager(self.handles, self.bus)
        self.manager.start()

    def aspire(self, *versions: int) -> None:
        wanted: list[AspiredVersion[Loader]] = [
            AspiredVersion(
                ServableId("table", version), ObjectLoader(lambda v=version: {"version": v})
            )
            for version in versions
        ]
        self.manager.set_aspired_versions("table", wanted)

    def wait_until(self, version: int, state: ServableState) -> None:
        def reached() -> bool:
            recorded = self.monitor.state(ServableId("table", version))
            return recorded is not None and recorded.state is state

        assert self.monitor.wait_for(reached, 10)


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    assert made.manager.stop(10)


def test_a_servable_that_cannot_be_handed_out_says_so(served: Served) -> None:
    version = ServableId("table", 1)
    served.manager.set_aspired_versions("table", [AspiredVersion(version, FakeLoader())])
    served.wait_until(1, ServableState.END)
    recorded = served.monitor.state(version)
    assert recorded is not None
    assert (
        "hands out ObjectServable; the loader of {name: table version: 1} made a FakeServable"
        in (str(recorded.error))
    )


def test_the_latest_version_is_had_or_the_one_that_is_named(served: Served) -> None:
    served.aspire(1, 2)
    for version in (1, 2):
        served.wait_until(version, ServableState.AVAILABLE)
    with served.handles.handle("table") as latest, served.handles.handle("table", 1) as first:
        assert (latest.id, latest.value) == (ServableId("table", 2), {"version": 2})
        assert first.value == {"version": 1}
    assert served.handles.available() == [ServableId("table", 1), ServableId("table", 2)]


def test_a_held_version_is_not_unloaded(served: Served) -> None:
    served.aspire(1)
    served.wait_until(1, ServableState.AVAILABLE)
    with served.handles.handle("table") as handle:
        served.aspire()
        served.wait_until(1, ServableState.UNLOADING)
        with pytest.raises(NotFoundError), served.handles.handle("table"):
            pass
        assert handle.value == {"version": 1}
        recorded = served.monitor.state(ServableId("table", 1))
        assert recorded is not None
        assert recorded.state is ServableState.UNLOADING
    served.wait_until(1, ServableState.END)


@pytest.mark.parametrize(
    ("version", "asked"), [(None, "Latest(nobody)"), (3, "Specific(nobody, 3)")]
)
def test_unserved_versions_are_not_found(served: Served, version: int | None, asked: str) -> None:
    with pytest.raises(NotFoundError) as info, served.handles.handle("nobody", version):
        pass
    assert info.value.message == f"Servable not found for request: {asked}"
