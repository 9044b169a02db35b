from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from servable.errors import (
    Code,
    LoadError,
    NotFoundError,
    OverloadedError,
    ServableError,
    UnavailableError,
)
from servable.lifecycle import (
    CachingManager,
    EventBus,
    Loader,
    ObjectLoader,
    ServableEvent,
    ServableId,
    ServableState,
    StaticManager,
)
from servable.testing import FakeClock, FakeLoader


class Factory:
    """Makes loaders of one byte each, and counts them."""

    def __init__(self, make: Callable[[ServableId], FakeLoader] | None = None) -> None:
        self.made: list[tuple[ServableId, FakeLoader]] = []
        self._make = make or (lambda servable_id: FakeLoader(estimate=1))

    def latest_version(self, name: str) -> int:
        if name == "unknown":
            raise NotFoundError("no such stream")
        return 7

    def make_loader(self, servable_id: ServableId) -> FakeLoader:
        self.made.append((servable_id, self._make(servable_id)))
        return self.made[-1][1]

    def loads(self, name: str) -> int:
        return sum(loader.loads for servable_id, loader in self.made if servable_id.name == name)


def names(manager: CachingManager[object]) -> list[str]:
    return [servable_id.name for servable_id in manager.loaded()]


def touch(manager: CachingManager[object], *wanted: str) -> None:
    for name in wanted:
        with manager.handle(name):
            pass


def test_the_first_request_loads_and_the_next_ones_do_not() -> None:
    factory = Factory()
    manager = CachingManager[object](factory)
    with manager.handle("a") as latest, manager.handle("a", 7) as same:
        assert latest.id == ServableId("a", 7)
        assert latest.value is same.value is factory.made[0][1].servable
    touch(manager, "a", "a")
    assert factory.loads("a") == 1


def test_objects_are_handed_out_bare() -> None:
    class Tables:
        def latest_version(self, name: str) -> int:
            return 1

        def make_loader(self, servable_id: ServableId) -> Loader:
            return ObjectLoader(lambda: {"of": servable_id.name})

    manager = CachingManager[dict[str, str]](Tables())
    with manager.handle("capitals") as handle:
        assert handle.value == {"of": "capitals"}


def test_many_who_ask_at_once_share_one_load() -> None:
    loading, go = threading.Event(), threading.Event()

    def wait() -> None:
        loading.set()
        assert go.wait(10)

    factory = Factory(lambda servable_id: FakeLoader(on_load=wait))
    manager = CachingManager[object](factory)
    got: list[object] = []

    def ask() -> None:
        with manager.handle("a") as handle:
            got.append(handle.value)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert loading.wait(10)
    go.set()
    for thread in threads:
        thread.join(10)
    assert len(got) == 8
    assert len(set(map(id, got))) == 1
    assert factory.loads("a") == 1


def test_the_least_recently_used_makes_room() -> None:
    factory = Factory()
    manager = CachingManager[object](factory, memory_limit_bytes=2)
    touch(manager, "a", "b", "a", "c")
    assert names(manager) == ["a", "c"]
    assert [loader.unloads for _, loader in factory.made] == [0, 1, 0]
    touch(manager, "b")
    assert names(manager) == ["c", "b"]
    assert factory.loads("b") == 2


def test_a_held_version_is_not_evicted() -> None:
    manager = CachingManager[object](Factory(), memory_limit_bytes=2)
    with manager.handle("a"):
        touch(manager, "b", "c")
        assert names(manager) == ["a", "c"]
        with manager.handle("c"):
            with pytest.raises(OverloadedError) as info, manager.handle("d"):
                pass
            assert info.value.message == (
                "Insufficient resources to load servable {name: d version: 7}"
            )
        assert names(manager) == ["a", "c"]


def test_nothing_is_evicted_for_a_version_that_does_not_fit_anyway() -> None:
    sizes = {"huge": 3}
    factory = Factory(lambda servable_id: FakeLoader(estimate=sizes.get(servable_id.name, 1)))
    manager = CachingManager[object](factory, memory_limit_bytes=2)
    touch(manager, "a", "b")
    with pytest.raises(OverloadedError), manager.handle("huge"):
        pass
    assert names(manager) == ["a", "b"]


def test_a_load_waits_for_the_memory_of_one_that_is_failing() -> None:
    loading, go = threading.Event(), threading.Event()

    def make(servable_id: ServableId) -> FakeLoader:
        if servable_id.name != "slow":
            return FakeLoader(estimate=1)

        def fail() -> None:
            loading.set()
            assert go.wait(10)
            raise LoadError("broken")

        return FakeLoader(estimate=1, on_load=fail)

    manager = CachingManager[object](Factory(make), memory_limit_bytes=1)
    errors: list[str] = []

    def ask(name: str) -> None:
        try:
            touch(manager, name)
        except ServableError as error:
            errors.append(f"{name}: {error}")

    slow = threading.Thread(target=ask, args=("slow",))
    slow.start()
    assert loading.wait(10)
    other = threading.Thread(target=ask, args=("other",))
    other.start()
    go.set()
    slow.join(10)
    other.join(10)
    assert errors == ["slow: broken"]
    assert names(manager) == ["other"]


def test_all_callers_get_a_failure_and_a_later_request_retries() -> None:
    attempts: list[ServableId] = []

    def make(servable_id: ServableId) -> FakeLoader:
        attempts.append(servable_id)
        broken = LoadError("damaged", code=Code.DATA_LOSS)
        return FakeLoader(failures=[broken] if len(attempts) == 1 else [])

    clock = FakeClock()
    manager = CachingManager[object](Factory(make), failure_seconds=5, clock=clock)
    for _ in range(3):
        with pytest.raises(LoadError, match="damaged") as info, manager.handle("a"):
            pass
        assert info.value.code is Code.DATA_LOSS
    assert len(attempts) == 1
    clock.now = 5
    touch(manager, "a")
    assert len(attempts) == 2


def test_an_unknown_stream_is_the_factory_s_error() -> None:
    manager = CachingManager[object](Factory())
    with pytest.raises(NotFoundError, match="no such stream"), manager.handle("unknown"):
        pass


def test_states_are_announced() -> None:
    bus, states = EventBus(), list[ServableState]()
    bus.subscribe(lambda event: states.append(event.state))
    manager = CachingManager[object](Factory(), bus=bus)
    touch(manager, "a")
    assert manager.evict(ServableId("a", 7))
    assert states == [
        ServableState.START,
        ServableState.LOADING,
        ServableState.AVAILABLE,
        ServableState.UNLOADING,
        ServableState.END,
    ]
    assert not manager.evict(ServableId("a", 7))


def test_closing_waits_for_handles_and_refuses_new_ones() -> None:
    factory = Factory()
    manager = CachingManager[object](factory)
    touch(manager, "b")
    with manager.handle("a"):
        assert not manager.close(0)
        assert names(manager) == ["a"]
        with pytest.raises(UnavailableError), manager.handle("b"):
            pass
    assert manager.close(10)
    assert [loader.is_loaded for _, loader in factory.made] == [False, False]


def test_random_requests_never_exceed_the_budget_nor_load_twice() -> None:
    """Eight threads over twelve servables of which five fit; `FakeLoader` refuses a double load."""
    limit, lock, used, most = 5, threading.Lock(), [0], [0]
    bus = EventBus()

    def count(event: ServableEvent) -> None:
        with lock:
            if event.state is ServableState.LOADING:
                used[0] += 1
            elif event.state is ServableState.UNLOADING:
                used[0] -= 1
            most[0] = max(most[0], used[0])

    bus.subscribe(count)
    manager = CachingManager[object](Factory(), memory_limit_bytes=limit, bus=bus)
    served, refused = [0] * 8, [0] * 8

    def work(index: int) -> None:
        for step in range(150):
            try:
                with manager.handle(f"s{(step * (index + 3) + index) % 12}"):
                    served[index] += 1
            except OverloadedError:
                refused[index] += 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(served) + sum(refused) == 8 * 150
    assert sum(served) > 0
    assert most[0] <= limit
    assert manager.close(10)


def test_a_static_manager_loads_everything_at_once() -> None:
    loaders: dict[ServableId, Loader] = {
        ServableId("a", 1): ObjectLoader(lambda: "one"),
        ServableId("a", 2): ObjectLoader(lambda: "two"),
    }
    manager = StaticManager[str](loaders)
    with manager.handle("a") as latest, manager.handle("a", 1) as first:
        assert (latest.value, first.value) == ("two", "one")
    with pytest.raises(NotFoundError, match=r"Latest\(b\)"), manager.handle("b"):
        pass
    assert manager.close(10)


def test_a_static_manager_that_cannot_load_all_loads_nothing() -> None:
    good = FakeLoader()
    loaders: dict[ServableId, Loader] = {
        ServableId("good", 1): good,
        ServableId("bad", 1): FakeLoader(always_fails=LoadError("broken")),
    }
    with pytest.raises(LoadError, match="broken"):
        StaticManager[object](loaders)
    assert (good.loads, good.unloads) == (1, 1)
