from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from servable.errors import Code, InvalidInputError, ServableError
from servable.lifecycle import (
    AspiredVersion,
    DynamicSourceRouter,
    ErrorSourceAdapter,
    ServableId,
    SourceRouter,
    StaticSourceRouter,
)
from servable.testing import RecordingTarget


def connected(router: SourceRouter[str]) -> list[RecordingTarget[str]]:
    targets = [RecordingTarget[str]() for _ in router.outputs]
    for output, target in zip(router.outputs, targets, strict=True):
        output.connect(target)
    return targets


def names(targets: Sequence[RecordingTarget[str]]) -> list[list[str]]:
    return [[name for name, _ in target.calls] for target in targets]


def test_a_table_of_names_routes_and_the_rest_goes_to_the_last_output(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    router = DynamicSourceRouter[str](3, {"a": 1, "b": 0})
    targets = connected(router)
    versions = [AspiredVersion(ServableId("a", 1), "/a/1")]
    router.set_aspired_versions("a", versions)
    for name in ("b", "c"):
        router.set_aspired_versions(name, [])
    assert names(targets) == [["b"], ["a"], ["c"]]
    assert targets[1].last("a") == versions
    assert "Routing servable(s) from stream c to default output port 2" in caplog.messages


def test_a_new_table_counts_from_the_next_list_on() -> None:
    router = DynamicSourceRouter[str](3, {"a": 0})
    targets = connected(router)
    router.set_aspired_versions("a", [])
    router.update_routes({"a": 1})
    router.set_aspired_versions("a", [])
    assert names(targets) == [["a"], ["a"], []]
    assert router.routes == {"a": 1}


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            2,
            "Last port cannot be used in route map, since it's reserved for the default route",
        ),
        (3, "Port number out of range: 3"),
        (-1, "Port number out of range: -1"),
    ],
)
def test_a_table_that_leads_nowhere_is_refused_and_the_old_one_stays(
    output: int, message: str
) -> None:
    router = DynamicSourceRouter[str](3, {"a": 0})
    with pytest.raises(InvalidInputError) as info:
        router.update_routes({"a": 1, "b": output})
    assert info.value.message == message
    assert router.routes == {"a": 0}


def test_parts_of_names_route_in_their_order() -> None:
    router = StaticSourceRouter[str](["rank", "er"])
    targets = connected(router)
    for name in ("ranker", "scorer", "fraud"):
        router.set_aspired_versions(name, [])
    assert names(targets) == [["ranker"], ["scorer"], ["fraud"]]


def test_outputs_are_connected_once_and_before_the_input() -> None:
    router = StaticSourceRouter[str]([])
    with pytest.raises(RuntimeError, match="before its input"):
        router.set_aspired_versions("a", [])
    connected(router)
    with pytest.raises(RuntimeError, match="already connected"):
        connected(router)


def test_the_error_adapter_makes_an_error_of_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    adapter = ErrorSourceAdapter()
    target = RecordingTarget[object]()
    adapter.connect(target)
    adapter.set_aspired_versions("a", [AspiredVersion(ServableId("a", n), "/a") for n in (1, 2)])
    first, second = (version.item for version in target.last("a"))
    assert isinstance(first, ServableError)
    assert (first.code, first.message) == (Code.INTERNAL, "No platform found for model")
    assert first is not second, "each version has an error of its own"
    assert (
        "Injecting error for servable {name: a version: 2}: No platform found for model"
        in caplog.messages
    )
