from __future__ import annotations

from dataclasses import replace

from servable._server.config.batching import ModelBatching
from servable._server.config.models import ModelConfig
from servable.errors import NotFoundError
from servable.lifecycle import AspiredVersion, ServableId
from servable.sources._configured import ConfiguredVersions, VersionDirectory
from servable.testing import RecordingTarget

MODEL = ModelConfig("m", "/m")
CHANGED = replace(MODEL, batching=ModelBatching(is_off=True))
VERSION = AspiredVersion(ServableId("m", 1), "/m/1", "content")


def configured(model: ModelConfig) -> AspiredVersion[VersionDirectory]:
    return AspiredVersion(VERSION.id, VersionDirectory("/m/1", model), "content", model)


class Bench:
    def __init__(self) -> None:
        self.target = RecordingTarget[VersionDirectory]()
        self.versions = ConfiguredVersions()
        self.versions.connect(self.target)
        self.versions.update([MODEL])

    def aspire(self, *versions: AspiredVersion[str]) -> None:
        self.versions.set_aspired_versions("m", versions)


def test_versions_are_sent_with_the_configuration_of_their_model() -> None:
    bench = Bench()
    error: AspiredVersion[str] = AspiredVersion(ServableId("m", 2), NotFoundError("gone"))
    bench.aspire(VERSION, error)
    sent = bench.target.last("m")
    assert sent[0] == configured(MODEL)
    assert sent[1].item is error.item


def test_a_changed_configuration_is_sent_with_the_aspired_versions() -> None:
    bench = Bench()
    bench.aspire(VERSION)
    bench.versions.update([MODEL])
    assert len(bench.target.calls) == 1, "nothing has changed"
    bench.versions.update([CHANGED])
    assert bench.target.last("m") == [configured(CHANGED)]


def test_versions_below_another_base_path_keep_their_configuration() -> None:
    bench = Bench()
    bench.aspire(VERSION)
    bench.versions.update([replace(MODEL, base_path="/elsewhere")])
    assert bench.target.calls == [("m", [configured(MODEL)])]


def test_of_a_model_that_was_taken_away_only_the_empty_list_is_sent() -> None:
    bench = Bench()
    bench.aspire(VERSION)
    bench.versions.update([])
    bench.aspire(VERSION)
    assert len(bench.target.calls) == 1
    bench.aspire()
    assert bench.target.last("m") == []


def test_versions_below_a_former_base_path_are_dropped() -> None:
    bench = Bench()
    bench.aspire(VERSION)
    elsewhere = replace(MODEL, base_path="/elsewhere")
    bench.versions.update([elsewhere])
    bench.versions.update([replace(elsewhere, batching=CHANGED.batching)])
    bench.versions.update([])
    bench.versions.update([MODEL])
    bench.versions.update([CHANGED])
    assert len(bench.target.calls) == 1
