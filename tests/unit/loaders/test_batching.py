from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from servable._server.config.batching import (
    BatchingParameters,
    ModelBatching,
    PlatformBatching,
    VersionBatching,
)
from servable.errors import ConfigError, ServableError
from servable.lifecycle._ids import ServableId
from servable.lifecycle._source import SourceAdapter
from servable.loaders._batching import BatchingAdapter, BatchingLoader, SharedBatchThreads
from servable.testing import FakeLoader, FakeServable

COMMON = BatchingParameters(max_batch_size=8)
OWN = BatchingParameters(max_batch_size=4)


class FakeBatchable(FakeServable):
    """Keeps what it was batched with."""

    def __init__(self, refusal: ServableError | None = None) -> None:
        super().__init__()
        self.batched: list[tuple[Any, BatchingParameters]] = []
        self.explanation = ""
        self._refusal = refusal

    def batch(self, threads: Any, parameters: BatchingParameters, origin: str) -> None:
        if self._refusal is not None:
            raise self._refusal
        self.batched.append((threads, parameters))
        self.explanation = origin

    def leave_unbatched(self, reason: str) -> None:
        self.explanation = reason


class FakeBatchableLoader(FakeLoader):
    def __init__(self, made: FakeBatchable) -> None:
        super().__init__()
        self.made = made

    def load(self) -> None:
        super().load()
        self._servable = self.made


def batching(parameters: BatchingParameters | None) -> VersionBatching:
    return VersionBatching(parameters, "a file")


def threads_named(*started: Any) -> SharedBatchThreads:
    remaining = iter(started)
    return SharedBatchThreads(COMMON, lambda parameters: cast("Any", next(remaining)))


def test_a_version_is_batched_before_anybody_sees_it() -> None:
    loader = FakeBatchableLoader(FakeBatchable())
    batched = BatchingLoader(loader, lambda: batching(OWN), threads_named("threads"))
    batched.load()
    assert batched.servable is loader.made
    assert loader.made.batched == [("threads", OWN)]
    assert loader.made.explanation == "a file"
    batched.unload()
    assert not loader.is_loaded


def test_versions_share_threads_and_those_without_batches_start_none() -> None:
    threads = threads_named("threads")
    first, second, plain = (FakeBatchableLoader(FakeBatchable()) for _ in range(3))
    BatchingLoader(plain, lambda: batching(None), threads_named()).load()
    assert (plain.made.batched, plain.made.explanation) == ([], "a file")
    for loader in (first, second):
        BatchingLoader(loader, lambda: batching(COMMON), threads).load()
        assert loader.made.batched == [("threads", COMMON)]


def test_parameters_that_cannot_be_used_fail_the_load_before_it_begins() -> None:
    def wrong() -> VersionBatching:
        raise ConfigError("wrong")

    loader = FakeBatchableLoader(FakeBatchable())
    with pytest.raises(ConfigError, match="wrong"):
        BatchingLoader(loader, wrong, threads_named("threads")).load()
    assert loader.loads == 0


def test_a_version_that_cannot_be_batched_is_unloaded() -> None:
    loader = FakeBatchableLoader(FakeBatchable(ConfigError("no")))
    with pytest.raises(ConfigError, match="no"):
        BatchingLoader(loader, lambda: batching(COMMON), threads_named("threads")).load()
    assert not loader.is_loaded


def test_the_configuration_of_the_model_is_asked_at_each_load(tmp_path: Path) -> None:
    loaders: list[FakeBatchableLoader] = []

    class Adapter(SourceAdapter[str, Any]):
        def adapt(self, servable_id: ServableId, item: str) -> Any:
            loaders.append(FakeBatchableLoader(FakeBatchable()))
            return loaders[-1]

    configured = {"m": ModelBatching(), "off": ModelBatching(is_off=True)}
    adapter = BatchingAdapter(Adapter(), PlatformBatching(COMMON), configured.__getitem__)
    adapter._threads = threads_named("threads")
    waiting = adapter.adapt(ServableId("m", 1), str(tmp_path))
    configured["m"] = ModelBatching(OWN)
    waiting.load()
    adapter.adapt(ServableId("off", 1), str(tmp_path)).load()
    batched = [[parameters for _, parameters in loader.made.batched] for loader in loaders]
    assert [[p.max_batch_size for p in parameters] for parameters in batched] == [[4], []]


def test_versions_whose_runs_may_wait_for_something_have_threads_of_their_own() -> None:
    class Adapter(SourceAdapter[str, Any]):
        def adapt(self, servable_id: ServableId, item: str) -> Any:
            return FakeBatchableLoader(FakeBatchable())

    def threads(*, own_threads: bool) -> list[SharedBatchThreads]:
        platform, model = PlatformBatching(COMMON), ModelBatching()
        adapter = BatchingAdapter(Adapter(), platform, lambda _: model, own_threads=own_threads)
        return [adapter.adapt(ServableId("m", number), "/m")._threads for number in (1, 2)]

    one, other = threads(own_threads=True)
    assert one is not other
    one, other = threads(own_threads=False)
    assert one is other
