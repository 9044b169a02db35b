from __future__ import annotations

from servable.errors import LoadError
from servable.lifecycle import EventBus, ServableEvent, ServableId, ServableState, StateMonitor
from servable.testing import FakeClock


def event(version: int, state: ServableState, error: LoadError | None = None) -> ServableEvent:
    return ServableEvent(ServableId("m", version), state, error)


def test_the_last_state_of_each_version_is_kept_highest_first() -> None:
    bus, clock = EventBus(), FakeClock(5.0)
    monitor = StateMonitor(bus, clock)
    error = LoadError("broken")
    bus.publish(event(1, ServableState.LOADING))
    bus.publish(event(3, ServableState.END, error))
    clock.now = 7.0
    bus.publish(event(1, ServableState.AVAILABLE))
    assert [(v, s.state) for v, s in monitor.states("m").items()] == [
        (3, ServableState.END),
        (1, ServableState.AVAILABLE),
    ]
    recorded = monitor.state(ServableId("m", 1))
    assert recorded is not None
    assert recorded.time_seconds == 7.0
    assert monitor.states("m")[3].error is error
    assert list(monitor.live_states("m")) == [1]
    assert monitor.states("other") == {}
    assert monitor.state(ServableId("m", 2)) is None


def test_a_monitor_knows_only_what_happens_between_its_start_and_its_close() -> None:
    bus = EventBus()
    bus.publish(event(1, ServableState.START))
    monitor = StateMonitor(bus)
    bus.publish(event(2, ServableState.START))
    monitor.close()
    bus.publish(event(3, ServableState.START))
    assert list(monitor.states("m")) == [2]


def test_waiting_looks_at_the_condition_first_and_gives_up_in_time() -> None:
    monitor = StateMonitor(EventBus())
    assert monitor.wait_for(lambda: True, 0)
    assert not monitor.wait_for(lambda: monitor.states("m") != {}, 0)
