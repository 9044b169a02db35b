from __future__ import annotations

import logging

import pytest

from servable._server.slow_loads import SlowLoads
from servable.errors import LoadError
from servable.lifecycle._ids import ServableId
from servable.lifecycle._monitor import EventBus
from servable.lifecycle._states import ServableEvent, ServableState
from servable.testing import FakeClock

ONE, OTHER = ServableId("m", 1), ServableId("m", 2)


def test_slow_loads_are_logged_after_two_seconds_and_then_at_doubling_intervals(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    bus, clock = EventBus(), FakeClock()
    loads = SlowLoads(bus, clock)
    assert loads.look() is None
    bus.publish(ServableEvent(ONE, ServableState.LOADING, None))
    bus.publish(ServableEvent(OTHER, ServableState.LOADING, None))
    assert loads.look() == 2.0
    clock.now += 1.5
    loads.look()
    assert caplog.messages == []
    bus.publish(ServableEvent(OTHER, ServableState.LOADING, LoadError("next attempt in a minute")))
    for _ in range(36):
        clock.now += 0.5
        loads.look()
    name = "Loading {name: m version: 1} has taken"
    assert caplog.messages == [f"{name} {n} s so far" for n in (2, 4, 8, 16)]
    bus.publish(ServableEvent(ONE, ServableState.AVAILABLE, None))
    assert loads.look() is None
