from __future__ import annotations

from collections.abc import Iterator

import pytest

from servable._server.telemetry import ControlPlaneMetrics
from servable._server.telemetry.families import MAX_SERIES, Counter, Distribution
from servable.errors import InvalidInputError, LoadError
from servable.lifecycle import ServableId
from servable.lifecycle._states import ServableEvent, ServableState


class Clock:
    """Each reading is a second and a half later than the previous one."""

    def __init__(self) -> None:
        self.readings: Iterator[float] = (1.5 * number for number in range(1000))

    def __call__(self) -> float:
        return next(self.readings)


def points(metrics: ControlPlaneMetrics, name: str) -> dict[tuple[str, ...], object]:
    (family,) = (family for family in metrics.scrape() if family.name == name)
    return {tuple(labels): value for labels, value in family.points}


def test_loads_are_counted_from_what_happens_to_versions() -> None:
    metrics = ControlPlaneMetrics(clock=Clock())
    first, second = ServableId("m", 1), ServableId("m", 2)
    for event in (
        ServableEvent(first, ServableState.START),
        ServableEvent(first, ServableState.LOADING),
        ServableEvent(first, ServableState.AVAILABLE),
        ServableEvent(second, ServableState.LOADING),
        ServableEvent(second, ServableState.END, LoadError("broken")),
        ServableEvent(first, ServableState.UNLOADING),
        ServableEvent(first, ServableState.END),
    ):
        metrics.note(event)
    failure = LoadError("broken").code.name
    assert points(metrics, "servable_loads_total") == {("m", "OK"): 1, ("m", failure): 1}
    assert points(metrics, "servable_load_seconds_total") == {("m",): 3.0}


def test_successful_and_failed_loads_of_saved_models_are_counted() -> None:
    metrics = ControlPlaneMetrics(clock=Clock())
    with metrics.saved_model_load("/m/1"):
        pass
    with pytest.raises(LoadError), metrics.saved_model_load("/m/1"):
        raise LoadError("broken")
    attempts = points(metrics, "/tensorflow/cc/saved_model/load_attempt_count")
    assert attempts == {("/m/1", "success"): 1, ("/m/1", "fail"): 1}
    latency = points(metrics, "/tensorflow/cc/saved_model/load_latency")
    assert latency == {("/m/1",): 3_000_000}


def fail_in_the_second_record(metrics: ControlPlaneMetrics) -> None:
    with metrics.warm_up("/m/1") as count_record:
        count_record()
        raise InvalidInputError("no")


def test_a_warm_up_is_counted_by_its_status_with_its_records() -> None:
    metrics = ControlPlaneMetrics(clock=Clock())
    with metrics.warm_up("/m/1") as count_record:
        count_record()
        count_record()
    with pytest.raises(InvalidInputError):
        fail_in_the_second_record(metrics)
    records = points(metrics, "/tensorflow/serving/model_warmup_records_read")
    assert records == {("/m/1", "OK"): 2, ("/m/1", "INVALID_ARGUMENT: no"): 1}
    latency = points(metrics, "/tensorflow/serving/model_warmup_latency")
    distribution = latency[("/m/1", "OK")]
    assert isinstance(distribution, Distribution)
    assert (distribution.sum, sum(distribution.counts)) == (1_500_000, 1)
    below = [limit for limit in distribution.limits if limit <= 1_500_000]
    assert distribution.counts[len(below)] == 1


def test_reloads_are_counted_by_where_they_come_from() -> None:
    metrics = ControlPlaneMetrics(clock=Clock())
    with metrics.config_reload("rpc"):
        pass
    with pytest.raises(InvalidInputError), metrics.config_reload("file"):
        raise InvalidInputError("no")
    expected = {("rpc", "OK"): 1, ("file", "INVALID_ARGUMENT"): 1}
    assert points(metrics, "servable_config_reloads_total") == expected


def test_the_points_that_were_not_used_for_longest_are_forgotten() -> None:
    counter = Counter("c", ["path"])
    for number in range(MAX_SERIES):
        counter.add(str(number))
    counter.add("0")
    counter.add("new")
    kept = dict(counter.family().points)
    assert len(kept) == MAX_SERIES
    assert kept[("0",)] == 2
    assert ("1",) not in kept


def test_a_value_at_a_limit_counts_as_above_it() -> None:
    distribution = Distribution((1.0, 2.0))
    for value in (0.5, 1.0, 2.0, 7.0):
        distribution.add(value)
    assert (distribution.counts, distribution.sum) == ([1, 1, 2], 10.5)


def test_gpus_are_shown_where_there_are_any() -> None:
    metrics = ControlPlaneMetrics(clock=Clock())
    name = "servable_gpu_memory_limit_bytes"
    devices = [("/job:localhost/replica:0/task:0/device:CPU:0", "CPU", 268435456)]
    metrics.show_tensorflow(lambda: "2.21.0", lambda: devices)
    assert points(metrics, name) == {}
    devices.append(("/job:localhost/replica:0/task:0/device:GPU:0", "GPU", 5 << 30))
    assert points(metrics, name) == {("GPU:0",): 5 << 30}
