from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from servable.errors import (
    BackendError,
    CancelledError,
    Code,
    FailedPreconditionError,
    LoadError,
    ServableError,
)
from servable.lifecycle import HarnessState, LoaderHarness, RetryPolicy, ServableId
from servable.lifecycle._states import LEGAL_TRANSITIONS
from servable.testing import FakeClock, FakeLoader

ID = ServableId("m", 1)


def approved(
    loader: FakeLoader, retry: RetryPolicy | None = None, clock: FakeClock | None = None
) -> LoaderHarness:
    harness = LoaderHarness(ID, loader, retry=retry, wait=(clock or FakeClock()).wait)
    harness.request_load()
    harness.approve_load()
    return harness


def ready(loader: FakeLoader) -> LoaderHarness:
    harness = approved(loader)
    harness.load(lambda: None)
    return harness


def test_a_whole_life() -> None:
    loader = FakeLoader()
    harness = LoaderHarness(ID, loader)
    seen = [harness.state]
    harness.request_load()
    seen.append(harness.state)
    harness.approve_load()
    seen.append(harness.state)
    harness.load(lambda: seen.append(harness.state))
    seen.append(harness.state)
    harness.request_unload()
    seen.append(harness.state)
    harness.start_quiescing()
    seen.append(harness.state)
    harness.done_quiescing()
    seen.append(harness.state)
    harness.unload()
    seen.append(harness.state)
    assert [state.value for state in seen] == [
        "new",
        "load-requested",
        "load-approved",
        "loading",
        "ready",
        "unload-requested",
        "quiescing",
        "quiesced",
        "disabled",
    ]
    assert (loader.loads, loader.unloads) == (1, 1)


def test_an_error_in_place_of_a_loader_is_an_error_from_the_start() -> None:
    error = LoadError("no such platform", code=Code.INTERNAL)
    harness = LoaderHarness(ID, error)
    assert harness.state is HarnessState.ERROR
    assert harness.error is error
    with pytest.raises(FailedPreconditionError, match="Duplicate load request"):
        harness.request_load()


def test_a_second_load_request_is_refused_and_changes_nothing() -> None:
    harness = LoaderHarness(ID, FakeLoader())
    harness.request_load()
    with pytest.raises(FailedPreconditionError, match="Duplicate load request"):
        harness.request_load()
    assert harness.state is HarnessState.LOAD_REQUESTED


def test_unload_is_refused_unless_ready() -> None:
    harness = LoaderHarness(ID, FakeLoader())
    with pytest.raises(FailedPreconditionError, match="Servable not loaded, or unload already"):
        harness.request_unload()
    loaded = ready(FakeLoader())
    loaded.request_unload()
    with pytest.raises(FailedPreconditionError):
        loaded.request_unload()


def test_an_illegal_transition_is_an_internal_error() -> None:
    harness = LoaderHarness(ID, FakeLoader())
    with pytest.raises(
        BackendError, match="Illegal request to transition from state new to quiescing"
    ):
        harness.start_quiescing()
    assert harness.state is HarnessState.ERROR


def test_final_states_lead_nowhere() -> None:
    for state in HarnessState:
        assert (not LEGAL_TRANSITIONS[state]) == state.is_final


@pytest.mark.parametrize(
    ("max_retries", "failures", "attempts", "succeeds"),
    [
        (5, 0, 1, True),
        (5, 2, 3, True),
        (5, 5, 6, True),
        (5, 6, 6, False),
        (0, 0, 1, True),
        (0, 1, 1, False),
        (-1, 1, 1, False),
    ],
)
def test_attempts_are_one_and_the_retries(
    max_retries: int, failures: int, attempts: int, succeeds: bool
) -> None:
    clock = FakeClock()
    loader = FakeLoader([LoadError(f"failure {n}") for n in range(failures)])
    harness = approved(loader, RetryPolicy(max_retries, 60.0), clock)
    if succeeds:
        harness.load(lambda: None)
        assert harness.state is HarnessState.READY
    else:
        with pytest.raises(LoadError, match=f"failure {failures - 1}"):
            harness.load(lambda: None)
        assert harness.state is HarnessState.ERROR
        assert str(harness.error) == f"failure {failures - 1}"
    assert loader.loads == attempts
    assert clock.waits == [60.0] * (attempts - 1)


@pytest.mark.parametrize("interval", [0.0, -1.0])
def test_without_an_interval_there_is_no_pause(interval: float) -> None:
    clock = FakeClock()
    harness = approved(FakeLoader([LoadError("once")]), RetryPolicy(1, interval), clock)
    harness.load(lambda: None)
    assert clock.waits == []


def test_any_exception_becomes_an_internal_error_that_names_it() -> None:
    harness = approved(FakeLoader([ZeroDivisionError("by zero")]), RetryPolicy(0))
    with pytest.raises(BackendError, match="ZeroDivisionError: by zero"):
        harness.load(lambda: None)


def test_cancelling_during_a_pause_ends_it_without_another_attempt() -> None:
    clock = FakeClock()
    loader = FakeLoader(always_fails=LoadError("broken"))
    harness = approved(loader, RetryPolicy(5, 60.0), clock)
    clock.on_wait = lambda seconds: harness.cancel_load()
    with pytest.raises(LoadError, match="broken"):
        harness.load(lambda: None)
    assert loader.loads == 1
    assert harness.state is HarnessState.ERROR
    assert clock.now == 0


def test_a_load_that_succeeds_after_it_was_cancelled_is_undone() -> None:
    made_available: list[bool] = []
    loader = FakeLoader(on_load=lambda: harness.cancel_load())
    harness = approved(loader)
    with pytest.raises(CancelledError, match="Loading of servable cancelled"):
        harness.load(lambda: made_available.append(True))
    assert harness.state is HarnessState.DISABLED
    assert not made_available
    assert (loader.loads, loader.unloads, loader.is_loaded) == (1, 1, False)


def test_a_load_that_was_cancelled_before_its_first_attempt_makes_none() -> None:
    loader = FakeLoader()
    harness = approved(loader)
    harness.cancel_load()
    with pytest.raises(CancelledError):
        harness.load(lambda: None)
    assert loader.loads == 0


def test_new_content_ends_the_pause_and_counts_attempts_afresh() -> None:
    clock = FakeClock()
    loader = FakeLoader([LoadError("half written")] * 8)
    harness = approved(loader, RetryPolicy(2, 60.0), clock)
    contents = itertools.count()

    def while_it_is_written(seconds: float) -> None:
        if next(contents) < 7:
            harness.hasten_retry("more")

    clock.on_wait = while_it_is_written
    harness.load(lambda: None)
    assert harness.state is HarnessState.READY
    assert loader.loads == 9
    assert clock.now == 60.0, "only the last pause was waited for"


@pytest.mark.parametrize(
    "error",
    [
        LoadError("a bad signature", code=Code.INVALID_ARGUMENT),
        LoadError("a graph that is none", code=Code.DATA_LOSS),
        LoadError("an unknown operation", code=Code.NOT_FOUND, may_pass=False),
    ],
)
def test_permanent_failures_are_not_retried(error: LoadError) -> None:
    clock = FakeClock()
    loader = FakeLoader(always_fails=error)
    harness = approved(loader, RetryPolicy(5, 60.0), clock)
    reports: list[str] = []
    with pytest.raises(LoadError) as caught:
        harness.load(lambda: None, report=lambda failure: reports.append(failure.message))
    assert caught.value is error
    assert harness.error is error
    assert (loader.loads, clock.waits, reports) == (1, [], [])


def test_a_load_error_that_may_pass_is_retried_whatever_its_code() -> None:
    damaged = LoadError("damaged on its way", code=Code.DATA_LOSS, may_pass=True)
    harness = approved(FakeLoader([damaged]), RetryPolicy(5, 60.0))
    harness.load(lambda: None)
    assert harness.state is HarnessState.READY


def test_new_content_is_tried_though_waiting_could_not_help_the_old() -> None:
    contents = iter(["half", "whole"])

    def on_load() -> None:
        if next(contents) == "half":
            harness.hasten_retry("whole")
            raise LoadError("half a graph", code=Code.DATA_LOSS)

    harness = approved(FakeLoader(on_load=on_load), RetryPolicy(5, 60.0))
    harness.load(lambda: None)
    assert harness.fingerprint == "whole"


def test_a_failed_attempt_is_reported_with_its_number_and_the_time_of_the_next_one() -> None:
    clock = FakeClock()
    loader = FakeLoader([LoadError("no network", code=Code.UNAVAILABLE)] * 2)
    harness = LoaderHarness(
        ID, loader, retry=RetryPolicy(2, 90.0), wait=clock.wait, wall_clock=clock
    )
    harness.request_load()
    harness.approve_load()
    reports: list[ServableError] = []
    harness.load(lambda: None, report=reports.append)
    assert [report.message for report in reports] == [
        "attempt 1 of 3 failed, the next one is due at 1970-01-01T00:01:30Z: no network",
        "attempt 2 of 3 is under way, the one before failed: no network",
        "attempt 2 of 3 failed, the next one is due at 1970-01-01T00:03:00Z: no network",
        "attempt 3 of 3 is under way, the one before failed: no network",
    ]
    assert {report.code for report in reports} == {Code.UNAVAILABLE}


def test_a_loader_that_cannot_unload_is_disabled_all_the_same() -> None:
    class Stubborn(FakeLoader):
        def unload(self) -> None:
            raise OSError("busy")

    harness = ready(Stubborn())
    harness.request_unload()
    harness.start_quiescing()
    harness.done_quiescing()
    with pytest.raises(ServableError, match="OSError: busy"):
        harness.unload()
    assert harness.state is HarnessState.DISABLED


def test_a_load_prepared_with_an_older_configuration_is_prepared_again() -> None:
    class Preparing(FakeLoader):
        def __init__(self, on_prepare: Callable[[], None] = lambda: None) -> None:
            super().__init__()
            self.prepare = on_prepare

    new_prepared: list[bool] = []
    new = Preparing(lambda: new_prepared.append(True))
    old = Preparing(lambda: harness.reconfigure(new, "new"))
    harness = LoaderHarness(ID, old, configuration="old")
    harness.request_load()
    harness.approve_load()
    harness.load(lambda: None)
    assert (old.loads, new_prepared, new.is_loaded) == (0, [True], True)
