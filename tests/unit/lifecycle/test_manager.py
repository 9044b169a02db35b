from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Mapping, Sequence

import pytest

from servable.errors import Code, LoadError, NotFoundError, ServableError
from servable.lifecycle import (
    Action,
    AspiredVersion,
    AspiredVersionsManager,
    EventBus,
    Loader,
    ResourceTracker,
    RetryPolicy,
    ServableId,
    StateMonitor,
    VersionSnapshot,
    resource_preserving_policy,
)
from servable.lifecycle._policy import AspiredVersionPolicy, availability_preserving_policy
from servable.testing import FakeClock, FakeLoader, FakeWorkers, RecordingPublisher


class Bench:
    """A manager whose decisions and workers run on request of the test."""

    def __init__(
        self,
        policy: AspiredVersionPolicy = availability_preserving_policy,
        limit_bytes: int | None = None,
        max_retries: int = 0,
    ) -> None:
        self.workers = FakeWorkers()
        self.publisher = RecordingPublisher()
        self.clock = FakeClock()
        self.bus = EventBus()
        self.monitor = StateMonitor(self.bus)
        self.manager = AspiredVersionsManager(
            self.publisher,
            self.bus,
            policy=policy,
            retry=RetryPolicy(max_retries, 60.0),
            resources=ResourceTracker(limit_bytes),
            workers=self.workers,
            wait=self.clock.wait,
        )

    def aspire(
        self,
        loaders: Mapping[int, Loader | ServableError],
        name: str = "m",
        fingerprints: Mapping[int, str] | None = None,
        configuration: str | None = None,
    ) -> None:
        self.manager.set_aspired_versions(
            name,
            [
                AspiredVersion(
                    ServableId(name, v), item, (fingerprints or {}).get(v), configuration
                )
                for v, item in loaders.items()
            ],
        )
        self.manager.step()

    def settle(self) -> None:
        """Run all pending tasks, and those that they cause."""
        while self.workers.tasks:
            self.workers.run()
            self.manager.step()

    def states(self, name: str = "m") -> dict[int, str]:
        return {v: recorded.state.name for v, recorded in self.monitor.states(name).items()}

    def history(self, version: int, name: str = "m") -> list[str]:
        return [
            event.state.name
            for event in self.publisher.events
            if event.id == ServableId(name, version)
        ]

    def reachable(self, name: str = "m") -> set[int]:
        return {version for stream, version in self.publisher.reachable if stream == name}


def loaders(versions: Iterable[int]) -> dict[int, FakeLoader]:
    return {version: FakeLoader() for version in versions}


def test_a_version_that_is_aspired_is_loaded_and_announced_in_order() -> None:
    bench = Bench()
    bench.aspire(loaders([1]))
    assert bench.history(1) == ["START"]
    bench.settle()
    assert bench.history(1) == ["START", "LOADING", "AVAILABLE"]
    assert bench.states() == {1: "AVAILABLE"}


def test_available_is_announced_after_the_version_can_be_reached() -> None:
    bench = Bench()
    reachable_when_announced: list[set[int]] = []
    bench.bus.subscribe(lambda event: reachable_when_announced.append(bench.reachable()))
    bench.aspire(loaders([1]))
    bench.settle()
    bench.aspire({})
    bench.settle()
    # START, LOADING, AVAILABLE, UNLOADING, END
    assert reachable_when_announced == [set(), set(), {1}, set(), set()]


def test_the_old_version_serves_until_the_new_one_does() -> None:
    bench = Bench()
    old = FakeLoader()
    bench.aspire({1: old})
    bench.settle()
    bench.aspire(loaders([2]))
    assert bench.reachable() == {1}
    bench.workers.run()  # the load of 2
    assert bench.reachable() == {1, 2}
    bench.manager.step()
    bench.settle()
    assert bench.reachable() == {2}
    assert bench.states() == {2: "AVAILABLE", 1: "END"}
    assert not old.is_loaded


def test_a_failed_version_leaves_the_old_one_serving() -> None:
    bench = Bench()
    bench.aspire(loaders([1]))
    bench.settle()
    broken = FakeLoader(always_fails=LoadError("damaged", code=Code.DATA_LOSS))
    bench.aspire({2: broken})
    bench.settle()
    assert bench.reachable() == {1}
    assert bench.states() == {2: "END", 1: "AVAILABLE"}
    assert bench.monitor.states("m")[2].error is not None
    bench.aspire({2: broken})
    bench.settle()
    assert broken.loads == 1, "a failed version is not tried again for nothing"
    bench.aspire(loaders([3]))
    bench.settle()
    assert bench.states() == {3: "AVAILABLE", 2: "END", 1: "END"}


def test_a_failed_version_is_tried_again_when_its_content_has_changed() -> None:
    bench = Bench()
    bench.aspire(loaders([1]))
    bench.settle()
    bench.aspire({2: FakeLoader(always_fails=LoadError("damaged"))}, fingerprints={2: "bad"})
    bench.settle()
    bench.aspire({2: FakeLoader()}, fingerprints={2: "good"})
    bench.settle()
    assert bench.states() == {2: "AVAILABLE", 1: "END"}


def test_going_back_to_the_version_that_still_serves_recovers() -> None:
    """TensorFlow Serving waits forever here (docs/spec/lifecycle.md §9.4)."""
    bench = Bench()
    first = FakeLoader()
    bench.aspire({1: first})
    bench.settle()
    bench.aspire({2: FakeLoader(always_fails=LoadError("damaged"))})
    bench.settle()
    bench.aspire(loaders([1]))
    bench.settle()
    bench.aspire(loaders([2]))
    bench.settle()
    assert bench.states() == {2: "AVAILABLE", 1: "END"}
    assert (first.loads, first.unloads) == (1, 1)


def test_a_rollback_loads_the_lower_version_before_the_higher_goes() -> None:
    bench = Bench()
    bench.aspire(loaders([2]))
    bench.settle()
    bench.aspire(loaders([1]))
    bench.workers.run()
    assert bench.reachable() == {1, 2}
    bench.manager.step()
    bench.settle()
    assert bench.reachable() == {1}


def test_an_empty_list_unloads_everything() -> None:
    bench = Bench()
    made = loaders([1, 2])
    bench.aspire(made)
    bench.settle()
    bench.aspire({})
    bench.settle()
    assert bench.states() == {2: "END", 1: "END"}
    assert [loader.unloads for loader in made.values()] == [1, 1]


def test_an_unload_waits_for_the_requests_that_hold_the_version() -> None:
    bench = Bench()
    loader = FakeLoader()
    bench.aspire({1: loader})
    bench.settle()
    loader.servable.hold()
    bench.aspire({})
    unloading = threading.Event()
    unsubscribe = bench.bus.subscribe(lambda event: unloading.set())
    thread = threading.Thread(target=bench.workers.run)
    thread.start()
    assert unloading.wait(10)
    unsubscribe()
    assert bench.history(1)[-1] == "UNLOADING"
    assert bench.reachable() == set()
    assert loader.unloads == 0
    loader.servable.release()
    thread.join(10)
    assert bench.history(1)[-1] == "END"
    assert loader.unloads == 1


def test_a_version_aspired_again_while_it_unloads_is_loaded_again() -> None:
    bench = Bench()
    bench.aspire(loaders([1]))
    bench.settle()
    bench.aspire({})
    again = FakeLoader()
    bench.aspire({1: again})
    assert bench.history(1)[-1] == "AVAILABLE", "the unload has been asked for, but not begun"
    bench.settle()
    assert again.is_loaded
    assert bench.history(1)[3:] == ["UNLOADING", "END", "START", "LOADING", "AVAILABLE"]


def test_the_serving_version_stays_while_one_that_is_aspired_again_unloads() -> None:
    bench = Bench()
    bench.aspire(loaders([1, 2]))
    bench.settle()
    bench.aspire(loaders([1]))
    bench.aspire(loaders([2]))
    assert [name for name, _ in bench.workers.tasks] == ["unload m/2"]
    bench.workers.run()
    assert bench.reachable() == {1}
    bench.manager.step()
    bench.settle()
    assert bench.reachable() == {2}


def test_a_version_that_is_no_longer_wanted_while_it_loads_never_becomes_available() -> None:
    bench = Bench()
    loader = FakeLoader(on_load=lambda: bench.aspire({}))
    bench.aspire({1: loader})
    bench.settle()
    assert bench.history(1) == ["START", "LOADING", "END"]
    error = bench.monitor.states("m")[1].error
    assert error is not None
    assert error.code is Code.CANCELLED
    assert not loader.is_loaded


def test_a_version_that_is_dropped_before_its_load_began_has_an_end() -> None:
    bench = Bench(policy=lambda versions: None)
    bench.aspire(loaders([1]))
    bench.aspire({})
    assert bench.history(1) == ["START", "END"]


def test_an_error_item_ends_at_once() -> None:
    bench = Bench()
    bench.aspire({1: NotFoundError("no platform")})
    bench.settle()
    assert bench.history(1) == ["END"]
    assert str(bench.monitor.states("m")[1].error) == "no platform"


def test_streams_do_not_wait_for_each_other() -> None:
    bench = Bench()
    bench.aspire(loaders([1]), name="slow")
    bench.aspire(loaders([1]), name="fast")
    assert [name for name, _ in bench.workers.tasks] == ["load slow/1", "load fast/1"]
    bench.workers.run(1)
    assert bench.reachable("fast") == {1}
    assert bench.reachable("slow") == set()


def test_all_versions_of_a_stream_load_side_by_side_highest_first() -> None:
    bench = Bench()
    bench.aspire(loaders([1, 3, 2]))
    assert [name for name, _ in bench.workers.tasks] == ["load m/3", "load m/2", "load m/1"]


def test_the_resource_policy_unloads_first() -> None:
    bench = Bench(policy=resource_preserving_policy)
    bench.aspire(loaders([1]))
    bench.settle()
    bench.aspire(loaders([2]))
    bench.workers.run()
    assert bench.reachable() == set()
    bench.manager.step()
    bench.settle()
    assert bench.reachable() == {2}


def test_a_version_that_does_not_fit_into_memory_is_refused() -> None:
    bench = Bench(limit_bytes=100)
    bench.aspire({1: FakeLoader(estimate=60)})
    bench.settle()
    bench.aspire({1: FakeLoader(estimate=60), 2: FakeLoader(estimate=60)})
    bench.settle()
    error = bench.monitor.states("m")[2].error
    assert error is not None
    assert error.code is Code.RESOURCE_EXHAUSTED
    assert error.message == "Insufficient resources to load servable {name: m version: 2}"
    assert bench.reachable() == {1}


def test_an_estimate_that_fails_ends_the_version() -> None:
    bench = Bench(limit_bytes=100)
    bench.aspire({1: FakeLoader(estimate=NotFoundError("gone"))})
    bench.settle()
    error = bench.monitor.states("m")[1].error
    assert error is not None
    assert error.code is Code.NOT_FOUND
    assert error.message == (
        "Error while attempting to reserve resources to load servable {name: m version: 1}: gone"
    )


def test_memory_of_ended_versions_is_free_again() -> None:
    bench = Bench(policy=resource_preserving_policy, limit_bytes=100)
    for version in range(1, 6):
        fails = LoadError("damaged") if version % 2 else None
        bench.aspire({version: FakeLoader(estimate=100, always_fails=fails)})
        bench.settle()
        assert bench.states()[version] == ("END" if fails else "AVAILABLE")


def test_a_list_with_a_foreign_name_is_a_mistake() -> None:
    bench = Bench()
    with pytest.raises(ValueError, match="list of versions of m"):
        bench.manager.set_aspired_versions(
            "m", [AspiredVersion(ServableId("other", 1), FakeLoader())]
        )


def test_of_a_version_that_is_aspired_twice_the_first_counts() -> None:
    bench = Bench()
    first, second = FakeLoader(), FakeLoader()
    both = [AspiredVersion(ServableId("m", 1), loader) for loader in (first, second)]
    bench.manager.set_aspired_versions("m", both)
    bench.manager.step()
    bench.settle()
    assert (first.loads, second.loads) == (1, 0)


def test_errors_that_are_kept_hold_on_to_nothing() -> None:
    bench = Bench()
    bench.aspire({1: FakeLoader(failures=[ZeroDivisionError("oops")])})
    bench.settle()
    error = bench.monitor.states("m")[1].error
    assert error is not None
    assert error.__traceback__ is None
    assert error.__context__ is None


def test_a_publisher_that_fails_ends_the_version_instead_of_leaving_it_in_between() -> None:
    bench = Bench()

    def failing(event: object) -> None:
        if "AVAILABLE" in repr(event):
            raise RuntimeError("border")

    bench.manager._publisher = failing  # type: ignore[assignment]
    bench.aspire(loaders([1]))
    bench.settle()
    assert bench.states() == {1: "END"}


def test_a_loader_that_exits_ends_its_version_and_no_other() -> None:
    class ExitsAtTheEnd(FakeLoader):
        def unload(self) -> None:
            sys.exit("unloaded")

    bench = Bench()
    bench.aspire({1: FakeLoader(on_load=sys.exit), 2: ExitsAtTheEnd(), 3: FakeLoader()})
    bench.settle()
    assert bench.states() == {1: "END", 2: "AVAILABLE", 3: "AVAILABLE"}
    bench.aspire(loaders([3]))
    bench.settle()
    assert bench.states() == {1: "END", 2: "END", 3: "AVAILABLE"}
    assert bench.reachable() == {3}


def test_with_threads_it_follows_lists_and_unloads_everything_at_the_end() -> None:
    publisher, bus = RecordingPublisher(), EventBus()
    monitor = StateMonitor(bus)
    manager = AspiredVersionsManager(publisher, bus)
    manager.start()
    made = {name: FakeLoader() for name in ("a", "b", "c")}
    for name, loader in made.items():
        manager.set_aspired_versions(name, [AspiredVersion(ServableId(name, 1), loader)])
    assert monitor.wait_for(lambda: len(publisher.reachable) == 3, 10)
    assert manager.stop(10)
    assert publisher.reachable == {}
    assert [loader.unloads for loader in made.values()] == [1, 1, 1]
    manager.set_aspired_versions("a", [AspiredVersion(ServableId("a", 2), FakeLoader())])
    assert list(monitor.states("a")) == [1]


def test_one_hanging_load_delays_no_other_stream() -> None:
    publisher, bus = RecordingPublisher(), EventBus()
    monitor = StateMonitor(bus)
    manager = AspiredVersionsManager(publisher, bus, load_slots=2)
    manager.start()
    hang = threading.Event()
    stuck = FakeLoader(on_load=lambda: hang.wait(10) and None)
    manager.set_aspired_versions("stuck", [AspiredVersion(ServableId("stuck", 1), stuck)])
    for name in ("a", "b", "c"):
        manager.set_aspired_versions(name, [AspiredVersion(ServableId(name, 1), FakeLoader())])
    assert monitor.wait_for(lambda: len(publisher.reachable) == 3, 10)
    hang.set()
    assert manager.stop(10)


def test_a_version_that_waits_for_its_retry_holds_no_slot() -> None:
    publisher, bus = RecordingPublisher(), EventBus()
    monitor = StateMonitor(bus)
    manager = AspiredVersionsManager(
        publisher, bus, load_slots=1, retry=RetryPolicy(max_retries=5, interval_seconds=3600)
    )
    manager.start()
    broken = FakeLoader(always_fails=LoadError("damaged"))
    manager.set_aspired_versions("broken", [AspiredVersion(ServableId("broken", 1), broken)])
    manager.set_aspired_versions("good", [AspiredVersion(ServableId("good", 1), FakeLoader())])
    assert monitor.wait_for(lambda: ("good", 1) in publisher.reachable, 10)
    assert manager.stop(10), "stopping does not wait for the hour to pass"


def test_stop_without_anything_to_stop() -> None:
    manager = AspiredVersionsManager(RecordingPublisher(), EventBus())
    manager.start()
    assert manager.stop(10)


def test_a_list_that_is_only_repeated_costs_no_decision() -> None:
    asked: list[int] = []

    def policy(versions: Sequence[VersionSnapshot]) -> Action | None:
        asked.append(len(versions))
        return availability_preserving_policy(versions)

    bench = Bench(policy)
    bench.aspire(loaders([1]))
    bench.settle()
    before = len(asked)
    bench.aspire(loaders([1]))
    assert len(asked) == before
    bench.aspire(loaders([1, 2]))
    assert len(asked) > before


def test_a_load_that_is_retried_says_why_while_it_waits() -> None:
    bench = Bench(max_retries=1)
    seen: list[str] = []
    bench.clock.on_wait = lambda seconds: seen.extend(
        f"{recorded.state.name}: {recorded.error}"
        for recorded in bench.monitor.states("m").values()
    )
    bench.aspire({1: FakeLoader([LoadError("no network", code=Code.UNAVAILABLE)])})
    bench.settle()
    (text,) = seen
    assert text.startswith("LOADING: attempt 1 of 2 failed, the next one is due at ")
    assert text.endswith("Z: no network")
    recorded = bench.monitor.state(ServableId("m", 1))
    assert recorded is not None
    assert (recorded.state.name, recorded.error) == ("AVAILABLE", None)


def test_content_that_comes_while_an_attempt_fails_for_good_is_not_missed() -> None:
    bench = Bench(max_retries=5)
    whole = FakeLoader()

    def on_load() -> None:
        # The list is applied when the load has failed.
        bench.manager.set_aspired_versions(
            "m", [AspiredVersion(ServableId("m", 1), whole, "whole")]
        )
        raise LoadError("half a graph", code=Code.DATA_LOSS)

    bench.aspire({1: FakeLoader(on_load=on_load)}, fingerprints={1: "half"})
    bench.settle()
    assert bench.states() == {1: "AVAILABLE"}
    assert whole.is_loaded


def test_a_retry_uses_the_loader_of_the_newest_configuration() -> None:
    bench = Bench(max_retries=1)
    old, new = FakeLoader(always_fails=LoadError("too small")), FakeLoader()

    def reconfigure(seconds: float) -> None:
        bench.aspire({1: FakeLoader()}, configuration="old")
        bench.aspire({1: new}, configuration="new")

    bench.clock.on_wait = reconfigure
    bench.aspire({1: old}, configuration="old")
    bench.settle()
    assert bench.clock.waits == [60.0], "a new configuration hastens nothing"
    assert (old.loads, new.loads, new.is_loaded) == (1, 1, True)
    assert bench.reachable() == {1}


def test_a_new_configuration_touches_neither_what_serves_nor_what_has_failed_for_good() -> None:
    bench = Bench()
    good, bad = FakeLoader(), FakeLoader(always_fails=LoadError("damaged"))
    bench.aspire({1: good, 2: bad}, configuration="old")
    bench.settle()
    others = loaders([1, 2])
    bench.aspire(others, configuration="new")
    bench.settle()
    assert (good.unloads, bad.loads) == (0, 1)
    assert not any(other.loads for other in others.values())
    bench.manager.retry(ServableId("m", 2))
    bench.manager.step()
    bench.settle()
    assert others[2].is_loaded, "asked for once more, it is loaded with the configuration of then"


def test_a_configuration_that_comes_while_a_version_waits_for_its_turn_counts() -> None:
    bench = Bench()
    old, new = FakeLoader(), FakeLoader()
    bench.aspire({1: old}, configuration="old")
    bench.aspire({1: new}, configuration="new")
    bench.settle()
    assert (old.loads, new.is_loaded) == (0, True)
