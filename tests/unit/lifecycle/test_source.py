from __future__ import annotations

import pytest

from servable.errors import Code, LoadError, NotFoundError, ServableError
from servable.lifecycle import AspiredVersion, ServableId, SourceAdapter
from servable.testing import RecordingTarget


class Doubler(SourceAdapter[int, str]):
    def adapt(self, servable_id: ServableId, item: int) -> str:
        if item == 0:
            raise NotFoundError("zero")
        return f"{servable_id.name}:{100 // (item - 13)}"


def test_items_are_adapted_one_by_one_and_errors_stay_with_their_version() -> None:
    adapter, target = Doubler(), RecordingTarget[str]()
    adapter.connect(target)
    before = LoadError("from the source")
    items: list[int | ServableError] = [14, 0, before, 13]
    adapter.set_aspired_versions(
        "m", [AspiredVersion(ServableId("m", n), item, f"f{n}") for n, item in enumerate(items)]
    )
    adapted = target.last("m")
    assert [version.id.version for version in adapted] == [0, 1, 2, 3]
    assert [version.fingerprint for version in adapted] == ["f0", "f1", "f2", "f3"]
    assert adapted[0].item == "m:100"
    assert isinstance(adapted[1].item, NotFoundError)
    assert adapted[2].item is before
    assert isinstance(adapted[3].item, ServableError)
    assert adapted[3].item.code is Code.INTERNAL
    assert "ZeroDivisionError" in adapted[3].item.message


def test_an_adapter_has_to_be_connected_once() -> None:
    adapter = Doubler()
    with pytest.raises(RuntimeError, match="connect the output"):
        adapter.set_aspired_versions("m", [])
    adapter.connect(RecordingTarget[str]())
    with pytest.raises(RuntimeError, match="already connected"):
        adapter.connect(RecordingTarget[str]())
