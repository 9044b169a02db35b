from __future__ import annotations

import logging
from dataclasses import dataclass, field

import pytest

from servable._server.config.models import ModelConfig
from servable._server.config.traffic import TrafficSplit, WeightedVersion
from servable._server.traffic_report import Statistics, TrafficReport
from servable.lifecycle import EventBus, ServableEvent, ServableId, ServableState, StateMonitor


@dataclass
class Core:
    """The parts of a core that a report uses."""

    models: tuple[ModelConfig, ...]
    bus: EventBus = field(default_factory=EventBus)

    def __post_init__(self) -> None:
        self.monitor = StateMonitor(self.bus)

    def reach(self, version: int, state: ServableState) -> None:
        self.bus.publish(ServableEvent(ServableId("m", version), state))


def test_a_split_without_one_of_its_versions_is_logged_once_and_again_when_it_is_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    split = TrafficSplit("", (WeightedVersion(3, 90), WeightedVersion(4, 10)))
    core = Core((ModelConfig("m", "/m", splits=(split,)),))
    report = TrafficReport(core, dict)  # type: ignore[arg-type]  # what it looks at is there
    core.reach(3, ServableState.AVAILABLE)
    report.look()
    report.look()
    core.reach(4, ServableState.AVAILABLE)
    report.look()
    report.look()
    assert caplog.messages == [
        (
            "The traffic split of m lacks versions [4], which are not available; now version 3: "
            "100.0%, version 4: 0.0%"
        ),
        "All versions of the traffic split of m are available",
    ]


def test_a_shadow_is_logged_when_it_has_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    counts: dict[str, int | str] = dict.fromkeys(
        ("matched", "differed", "failed", "dropped", "unavailable"), 0
    )
    counts.update(version=4, last_problem="")
    statistics: dict[str, Statistics] = {"m": counts}
    report = TrafficReport(Core(()), lambda: statistics)  # type: ignore[arg-type]  # as above
    report.look()
    assert not caplog.messages
    counts.update(matched=7, differed=1, last_problem="output y: string 0 differs")
    report.look()
    report.look()
    assert caplog.messages == [
        (
            "Shadow version 4 of model m: matched 7, differed 1, failed 0, dropped 0, "
            "unavailable 0; last problem: output y: string 0 differs"
        ),
    ]
