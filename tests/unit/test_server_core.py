from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from servable._server.border.gateway import PublishedModel
from servable._server.config.models import TENSORFLOW_PLATFORM, ModelConfig
from servable._server.publisher import ModelPublisher
from servable._server.server_core import CoreOptions, ServerCore
from servable._server.startup import StartupWatch
from servable.errors import (
    CancelledError,
    Code,
    ConfigError,
    FailedPreconditionError,
    NotFoundError,
    ServableError,
    UnavailableError,
)
from servable.lifecycle import Loader, RetryPolicy, ServableId, ServableState
from servable.platforms import VersionDirectory
from servable.sources import All, SettleTimes, Specific
from servable.testing import FakeLoader
from support.fake_platform import FakePlatform


class Served:
    """A core with its published state, polled only when it is started and reloaded."""

    def __init__(
        self,
        *,
        poll_wait_seconds: float = 0,
        allow_labels: bool = False,
        is_complete: Callable[[str], bool] | None = None,
        **options: Any,
    ) -> None:
        self.models: dict[str, PublishedModel] = {}
        self.core = ServerCore(
            ModelPublisher(self._publish),
            {TENSORFLOW_PLATFORM: FakePlatform(is_complete=is_complete)},
            CoreOptions(
                poll_wait_seconds=poll_wait_seconds,
                retry=RetryPolicy(0),
                allow_labels_for_unavailable=allow_labels,
                **options,
            ),
        )

    def _publish(self, models: Sequence[PublishedModel]) -> None:
        self.models.update({model.name: model for model in models})

    def start(self, *models: ModelConfig) -> None:
        self.core.start(models)
        for model in models:
            self.wait(lambda name=model.name: self.available(name))

    def available(self, name: str) -> set[int]:
        states = self.core.monitor.states(name)
        return {v for v, s in states.items() if s.state is ServableState.AVAILABLE}

    def wait(self, condition: Callable[[], object]) -> None:
        assert self.core.monitor.wait_for(lambda: bool(condition()), 10)


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    assert made.core.stop(10)


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., ModelConfig]:
    """Make a model with versions, some of them broken."""

    def make(
        name: str, *versions: int, broken: Sequence[int] = (), **options: object
    ) -> ModelConfig:
        for version in versions:
            directory = tmp_path / name / str(version)
            directory.mkdir(parents=True, exist_ok=True)
            if version in broken:
                (directory / "broken").touch()
        (tmp_path / name).mkdir(exist_ok=True)
        return ModelConfig(name, str(tmp_path / name), **options)  # type: ignore[arg-type]

    return make


Make = Callable[..., ModelConfig]


def test_a_reload_adds_changes_and_removes_models(served: Served, model: Make) -> None:
    served.start(model("a", 1, 2))
    served.core.reload([model("a", version_policy=All()), model("b", 7)])
    assert served.available("b") == {7}
    served.wait(lambda: served.available("a") == {1, 2})
    served.core.reload([model("b")])
    assert served.available("a") == set()
    assert served.available("b") == {7}
    served.core.reload([model("a")])
    assert served.available("a") == {2}, "a model that was removed can be added again"


def test_the_same_configuration_twice_changes_nothing(served: Served, model: Make) -> None:
    served.start(model("a", 1))
    served.core.reload([model("a")])
    assert served.available("a") == {1}


def test_only_changes_are_logged(
    served: Served, model: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "servable._server.server_core")
    served.start(model("a", 1))
    for _ in range(2):
        served.core.reload([model("a"), model("b", 1)])
    assert caplog.messages.count(" (Re-)adding model: a") == 2
    assert caplog.messages.count(" (Re-)adding model: b") == 1


def test_a_refused_configuration_leaves_the_old_one_in_force(served: Served, model: Make) -> None:
    served.start(model("a", 1))
    with pytest.raises(ConfigError, match="multiple times"):
        served.core.reload([model("b", 1), model("b", 1)])
    assert "b" not in served.models
    assert served.available("a") == {1}


def test_a_new_model_that_fails_is_reported_and_the_others_are_served(
    served: Served, model: Make
) -> None:
    served.start(model("a", 1))
    with pytest.raises(ServableError) as info:
        served.core.reload([model("a"), model("bad", 3, broken=[3]), model("good", 1)])
    assert info.value.code is Code.UNKNOWN
    assert info.value.message == (
        "1 model(s) did not become available: "
        "{{{name: bad version: 3} due to error: DATA_LOSS: cannot parse 3}, }"
    )
    assert served.available("good") == {1}
    assert served.models["bad"].unavailable_reason is None


def test_a_new_model_without_a_version_does_not_block_the_reload(
    served: Served, model: Make, tmp_path: Path
) -> None:
    served.start(model("a", 1))
    with pytest.raises(NotFoundError, match="Could not find base path /nowhere for servable b"):
        served.core.reload([model("a"), ModelConfig("b", "/nowhere")])
    with pytest.raises(NotFoundError, match="Unable to find a numerical version path"):
        served.core.reload([model("a"), model("empty")])
    # It stays configured, and is served as soon as there is a version.
    model("empty", 5)
    served.core.reload([model("a"), model("empty")])
    served.wait(lambda: served.available("empty") == {5})


def test_requests_get_the_problem_of_the_base_path(served: Served, model: Make) -> None:
    served.core.expect(["m"])
    served.core.start([ModelConfig("m", "/nowhere")])
    served.core.change(lambda models: models)  # returns once the base path was looked at
    assert served.models["m"].unavailable_reason == (
        "Model m is not available yet: no version was found: Could not find base path /nowhere "
        "for servable m with error NOT_FOUND: /nowhere not found"
    )


def test_a_reload_with_polling_off_says_so(model: Make) -> None:
    served = Served(poll_wait_seconds=-1)
    served.core.start([])
    with pytest.raises(NotFoundError, match="polling is off"):
        served.core.reload([model("a", 1)])
    assert served.core.stop(10)


def test_from_no_list_to_a_list_but_not_back(served: Served, model: Make) -> None:
    served.core.start(None)
    served.core.reload(None)
    served.core.reload([model("a", 1)])
    assert served.available("a") == {1}
    with pytest.raises(ConfigError, match="Cannot transition to requested config") as info:
        served.core.reload(None)
    assert info.value.code is Code.FAILED_PRECONDITION


def test_a_label_needs_an_available_version(served: Served, model: Make) -> None:
    both = Specific((1, 2))
    served.start(model("a", 1, 2, 3, version_policy=both))
    served.wait(lambda: served.available("a") == {1, 2})
    served.core.reload([model("a", version_policy=both, labels={"stable": 1, "canary": 2})])
    assert served.models["a"].labels == {"stable": 1, "canary": 2}
    with pytest.raises(FailedPreconditionError) as info:
        served.core.reload([model("a", version_policy=All(), labels={"stable": 2, "next": 3})])
    assert info.value.message == (
        "Request to assign label to version 3 of model a, which is not currently available for "
        "inference"
    )
    assert served.models["a"].labels == {"stable": 1, "canary": 2}
    assert served.available("a") == {1, 2}, "models are not touched when a label is refused"
    served.core.reload([model("a", version_policy=both, labels={"stable": 2})])
    assert served.models["a"].labels == {"stable": 2}


def test_a_label_may_stay_on_a_version_that_is_unloaded(served: Served, model: Make) -> None:
    served.start(model("a", 1, 2, version_policy=All()))
    served.wait(lambda: served.available("a") == {1, 2})
    served.core.reload([model("a", version_policy=Specific((2,)), labels={"stable": 1})])
    served.wait(lambda: served.available("a") == {2})
    assert served.models["a"].labels == {"stable": 1}


def test_with_the_flag_a_new_label_may_come_first_but_an_old_one_may_not_move(model: Make) -> None:
    served = Served(allow_labels=True)
    served.start(model("a", 1, labels={"stable": 1}))
    served.core.reload([model("a", labels={"stable": 1, "next": 9})])
    assert served.models["a"].labels == {"stable": 1, "next": 9}
    with pytest.raises(FailedPreconditionError):
        served.core.reload([model("a", labels={"stable": 9})])
    assert served.core.stop(10)


def test_labels_in_the_first_configuration_need_the_flag(model: Make) -> None:
    served = Served()
    with pytest.raises(FailedPreconditionError):
        served.core.start([model("a", 1, labels={"stable": 1})])


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Loads of version 13 hang until this is set."""
    go_on = threading.Event()
    make_loader = FakePlatform.make_loader

    def hang_or_load(
        self: FakePlatform, servable_id: ServableId, directory: VersionDirectory
    ) -> Loader:
        if servable_id.version != 13:
            return make_loader(self, servable_id, directory)
        return FakeLoader(on_load=lambda: None if go_on.wait(10) else pytest.fail("left hanging"))

    monkeypatch.setattr(FakePlatform, "make_loader", hang_or_load)
    yield go_on
    go_on.set()


def test_a_load_that_hangs_does_not_block_configuration_changes(
    served: Served, model: Make, hanging: threading.Event
) -> None:
    served.start(model("a", 1, labels={}))
    hangs = served.core.begin_reload([model("a"), model("hangs", 13)])
    assert hangs is not None
    assert not hangs.wait(0)
    served.core.change(lambda models: [*models, model("b", 1)])
    assert served.available("b") == {1}
    served.core.change(lambda models: [m for m in models if m.name != "hangs"])
    with pytest.raises(CancelledError, match="Model hangs was removed before it served"):
        hangs.wait()
    served.core.reload([model("c", 1)])
    assert served.available("c") == {1}
    hanging.set()


def test_a_reload_waits_for_new_models_of_another_that_waits(
    served: Served, model: Make, hanging: threading.Event
) -> None:
    served.core.start([])
    reloads = [served.core.begin_reload([model("hangs", 13)]) for _ in range(2)]
    edit = served.core.begin_change(lambda models: [*models, model("b", 1)])
    assert edit.wait(10), "who adds another model waits for that one only"
    assert not any(reload is None or reload.wait(0) for reload in reloads)
    hanging.set()
    assert all(reload is not None and reload.wait(10) for reload in reloads)
    assert served.available("hangs") == {13}


def test_reloads_that_are_cancelled_leave_one_behind_that_later_ones_wait_with(
    served: Served, model: Make, hanging: threading.Event
) -> None:
    served.core.start([])

    def subscribers_after_a_reload_that_is_cancelled() -> int:
        reload = served.core.begin_reload([model("hangs", 13)])
        assert reload is not None
        assert not reload.wait_unless_cancelled(lambda: True, look_seconds=0)
        return len(served.core.bus._subscribers)

    assert len({subscribers_after_a_reload_that_is_cancelled() for _ in range(3)}) == 1
    last = served.core.begin_reload([model("hangs", 13)])
    assert last is not None
    assert not last.wait(0)
    hanging.set()
    assert last.wait(10)
    assert served.available("hangs") == {13}


def test_stopping_ends_a_reload_that_waits(model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servable._server.change_under_way._RECHECK_SECONDS", 0.01)
    served = Served()
    served.core.start([])
    loading, hang = threading.Event(), threading.Event()

    def load(loader: FakeLoader) -> None:
        loading.set()
        hang.wait(10)

    monkeypatch.setattr(FakeLoader, "load", load)
    raised: list[Exception] = []

    def reload() -> None:
        try:
            served.core.reload([model("a", 1)])
        except ServableError as error:
            raised.append(error)

    thread = threading.Thread(target=reload)
    thread.start()
    assert loading.wait(10)
    assert not served.core.stop(0.01)
    thread.join(10)
    assert [type(error) for error in raised] == [UnavailableError]
    monkeypatch.setattr(FakeLoader, "unload", lambda loader: None)
    hang.set()
    assert served.core.stop(10)


class Watched:
    def __init__(self, *models: ModelConfig) -> None:
        self.served = Served()
        self.ready = 0
        self.failures: list[ServableError] = []
        self.told = threading.Event()
        names = [model.name for model in models]
        StartupWatch(self.served.core, names, self._on_ready, self._on_failed)
        self.served.core.start(models)

    def _on_ready(self) -> None:
        self.ready += 1
        self.told.set()

    def _on_failed(self, error: ServableError) -> None:
        self.failures.append(error)
        self.told.set()


def test_a_start_is_ready_when_every_model_has_settled_and_one_serves(model: Make) -> None:
    watched = Watched(model("good", 1), model("bad", 1, broken=[1]))
    assert watched.told.wait(10)
    assert (watched.ready, watched.failures) == (1, [])
    assert watched.served.core.stop(10)


def test_a_start_without_models_is_ready_at_once() -> None:
    watched = Watched()
    assert watched.ready == 1
    assert watched.served.core.stop(10)


def test_a_start_has_failed_when_every_model_has(model: Make) -> None:
    watched = Watched(model("a", 1, broken=[1]), model("b", 4, 5, broken=[5]))
    assert watched.told.wait(10)
    assert watched.ready == 0
    (failure,) = watched.failures
    assert failure.code is Code.UNKNOWN
    assert failure.message == (
        "2 servable(s) did not become available: "
        "{{{name: a version: 1} due to error: DATA_LOSS: cannot parse 1}, "
        "{{name: b version: 5} due to error: DATA_LOSS: cannot parse 5}, }"
    )
    assert watched.served.core.stop(10)


def test_a_model_without_a_version_keeps_the_start_going(model: Make) -> None:
    watched = Watched(model("bad", 1, broken=[1]), model("empty"))
    watched.served.wait(lambda: not watched.served.core.monitor.live_states("bad"))
    assert not watched.told.is_set()
    assert watched.served.core.stop(10)


def test_labels_as_desired_state_may_come_with_their_versions(served: Served, model: Make) -> None:
    labelled = {"labels": {"stable": 1, "next": 9}, "labels_when_available": True}
    served.start(model("a", 1, version_policy=All(), **labelled))
    assert served.models["a"].labels == {"stable": 1}
    served.core.reload([model("a", 9, version_policy=All(), **labelled)])
    served.wait(lambda: served.available("a") == {1, 9})
    assert served.models["a"].labels == {"stable": 1, "next": 9}


def test_a_model_may_keep_its_last_version(served: Served, model: Make, tmp_path: Path) -> None:
    kept, lost = model("kept", 1, keep_last_version=True), model("lost", 1)
    served.start(kept, lost)
    for name in ("kept", "lost"):
        (tmp_path / name / "1").rmdir()
    served.core.reload([kept, lost])
    served.wait(lambda: served.available("lost") == set())
    assert served.available("kept") == {1}
    served.core.reload([model("kept", 3, keep_last_version=True), lost])
    served.wait(lambda: served.available("kept") == {3})


def test_a_configuration_without_versions_may_be_refused_as_a_whole(model: Make) -> None:
    served = Served(fail_if_zero_versions=True)
    served.start(model("a", 1))
    with pytest.raises(NotFoundError, match="version path for servable empty"):
        served.core.reload([model("b", 1), model("empty")])
    assert served.available("a") == {1}
    assert "b" not in served.models
    assert served.core.stop(10)


def test_a_reload_waits_for_a_version_that_is_still_being_written(
    model: Make, tmp_path: Path
) -> None:
    completed = threading.Event()

    def is_complete(path: str) -> bool:
        if not completed.is_set():
            completed.set()
            return False
        return True

    served = Served(settle_times=SettleTimes(0, 3600), is_complete=is_complete)
    served.start()
    served.core.reload([model("a", 1)])
    assert served.available("a") == {1}
    assert served.core.stop(10)


def test_models_that_share_a_base_path_are_served_and_reported_once(
    served: Served, model: Make, caplog: pytest.LogCaptureFixture
) -> None:
    first = model("a", 1)
    both = [first, ModelConfig("b", first.base_path)]
    served.start(first)
    for _ in range(2):
        served.core.reload(both)
    assert served.available("b") == {1}
    assert caplog.messages.count(f"Models a, b share the base path {first.base_path}") == 1
