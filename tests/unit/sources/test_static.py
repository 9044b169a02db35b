from __future__ import annotations

from servable.lifecycle import ServableId
from servable.sources import StaticSource
from servable.testing import RecordingTarget


def test_every_stream_gets_one_list() -> None:
    source = StaticSource(
        {ServableId("b", 1): "x", ServableId("a", 2): "y", ServableId("b", 3): "z"}
    )
    target = RecordingTarget[str]()
    source.connect(target)
    assert [(n, [v.item for v in versions]) for n, versions in target.calls] == [
        ("a", ["y"]),
        ("b", ["x", "z"]),
    ]
