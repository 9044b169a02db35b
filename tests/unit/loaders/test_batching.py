from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from servable._server.config.batching import (
    PER_MODEL_FILE,
    BatchingParameters,
    ModelBatching,
    PlatformBatching,
)
from servable.errors import ConfigError, ServableError
from servable.loaders._batching import BatchingLoader, SharedBatchThreads
from servable.testing import FakeLoader, FakeServable

COMMON = BatchingParameters(max_batch_size=8)
OWN = BatchingParameters(max_batch_size=4)


class FakeBatchable(FakeServable):
    """Records its batching."""

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


def batching(parameters: BatchingParameters | None) -> PlatformBatching:
    return PlatformBatching(parameters or COMMON, is_on=parameters is not None, origin="a file")


def batched_loader(
    loader: FakeLoader,
    platform: PlatformBatching,
    threads: SharedBatchThreads,
    model: ModelBatching | None = None,
    **options: Any,
) -> BatchingLoader:
    return BatchingLoader(loader, "/m/1", platform, model or ModelBatching(), threads, **options)


def threads_named(*started: Any) -> SharedBatchThreads:
    remaining = iter(started)
    return SharedBatchThreads(COMMON, lambda parameters: cast("Any", next(remaining)))


def test_a_version_is_batched_before_anybody_sees_it() -> None:
    loader = FakeBatchableLoader(FakeBatchable())
    batched = batched_loader(loader, batching(OWN), threads_named("threads"))
    batched.load()
    assert batched.servable is loader.made
    assert loader.made.batched == [("threads", OWN)]
    assert loader.made.explanation == "a file"
    batched.unload()
    assert not loader.is_loaded


def test_versions_share_threads_and_those_without_batches_start_none() -> None:
    threads = threads_named("threads")
    first, second, plain = (FakeBatchableLoader(FakeBatchable()) for _ in range(3))
    batched_loader(plain, batching(None), threads_named()).load()
    assert (plain.made.batched, plain.made.explanation) == ([], "a file")
    for loader in (first, second):
        batched_loader(loader, batching(COMMON), threads).load()
        assert loader.made.batched == [("threads", COMMON)]


def test_parameters_that_cannot_be_used_fail_the_load_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / PER_MODEL_FILE).write_text("max_batch_size { value: -1 }")
    loader = FakeBatchableLoader(FakeBatchable())
    platform, threads = PlatformBatching(COMMON, per_model=True), threads_named("threads")
    with pytest.raises(ConfigError, match="must be positive; was -1"):
        BatchingLoader(loader, str(tmp_path), platform, ModelBatching(), threads).load()
    assert loader.loads == 0


def test_a_version_that_cannot_be_batched_is_unloaded() -> None:
    loader = FakeBatchableLoader(FakeBatchable(ConfigError("no")))
    with pytest.raises(ConfigError, match="no"):
        batched_loader(loader, batching(COMMON), threads_named("threads")).load()
    assert not loader.is_loaded


def test_the_configuration_of_a_model_overrides_that_of_its_platform() -> None:
    for model, sizes in ((ModelBatching(OWN), [4]), (ModelBatching(is_off=True), [])):
        loader = FakeBatchableLoader(FakeBatchable())
        batched_loader(loader, PlatformBatching(COMMON), threads_named("threads"), model).load()
        assert [parameters.max_batch_size for _, parameters in loader.made.batched] == sizes


@pytest.mark.parametrize("reruns", [True, False])
def test_batches_that_failed_are_run_again_unless_the_server_says_no(reruns: bool) -> None:
    loader = FakeBatchableLoader(FakeBatchable())
    batched_loader(loader, batching(OWN), threads_named("threads"), reruns=reruns).load()
    ((_, parameters),) = loader.made.batched
    assert parameters.rerun_failed_batches is reruns
