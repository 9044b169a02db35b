from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from servable._server.config.models import ModelConfig
from servable._server.remote.cache import VersionCache
from servable._server.remote.fetch import Fetcher, FetchOptions
from servable._server.remote.manifest import Manifest
from servable._server.remote.store import RemoteStore
from servable.errors import CancelledError, LoadError
from servable.lifecycle import AspiredVersion, Loader, RetryPolicy, ServableId
from servable.lifecycle._harness import LoaderHarness
from servable.loaders._fetching import FetchingAdapter, FetchingLoader, Interest
from servable.platforms import VersionDirectory
from servable.platforms._registry import PlatformAdapter
from servable.testing import FakeLoader, RecordingTarget
from support.fake_platform import FakePlatform

fsspec = pytest.importorskip("fsspec")

WriteVersion = Callable[[int], str]


@pytest.fixture
def write() -> WriteVersion:
    base_url = f"memory://{uuid.uuid4().hex}/m"

    def write(version: int) -> str:
        url = f"{base_url}/{version}"
        fsspec.filesystem("memory").pipe(f"{url}/saved_model.pb", b"12345")
        return url

    return write


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    """Its cache has room for one version."""
    cache = VersionCache(tmp_path / "cache", max_bytes=5)
    return Fetcher(RemoteStore(), cache, FetchOptions(attempts=1))


def manifest(fetcher: Fetcher, url: str) -> Manifest:
    return fetcher.store.manifest(url)


def is_cached(fetcher: Fetcher, url: str) -> bool:
    return fetcher.cache.find(manifest(fetcher, url)) is not None


class TestLoader:
    def test_loads_what_was_fetched(self, fetcher: Fetcher, write: WriteVersion) -> None:
        paths: list[Path] = []

        def make(path: str) -> Loader:
            paths.append(Path(path))
            return FakeLoader()

        loader = FetchingLoader(write(1), fetcher, make)
        loader.prepare()
        loader.load()

        assert (paths[0] / "saved_model.pb").read_bytes() == b"12345"
        assert loader.servable is not None
        loader.unload()

    def test_keeps_the_files_while_loaded(self, fetcher: Fetcher, write: WriteVersion) -> None:
        first, second = write(1), write(2)
        loader = FetchingLoader(first, fetcher, lambda _: FakeLoader())
        loader.load()
        with pytest.raises(LoadError, match="no room"):
            FetchingLoader(second, fetcher, lambda _: FakeLoader()).load()
        assert is_cached(fetcher, first)

        loader.unload()
        FetchingLoader(second, fetcher, lambda _: FakeLoader()).load()

        assert not is_cached(fetcher, first)

    def test_a_failed_load_keeps_nothing(self, fetcher: Fetcher, write: WriteVersion) -> None:
        def fail() -> None:
            raise LoadError("broken")

        loader = FetchingLoader(write(1), fetcher, lambda _: FakeLoader(on_load=fail))
        for _ in range(2):
            loader.prepare()
            with pytest.raises(LoadError, match="broken"):
                loader.load()

        FetchingLoader(write(2), fetcher, lambda _: FakeLoader()).load()

    def test_a_version_dropped_between_fetch_and_load_keeps_nothing(
        self, fetcher: Fetcher, write: WriteVersion
    ) -> None:
        interest = Interest()
        FetchingLoader(write(1), fetcher, lambda _: FakeLoader(), interest).prepare()
        interest.end()

        FetchingLoader(write(2), fetcher, lambda _: FakeLoader()).load()

    def test_estimates_without_fetching(self, fetcher: Fetcher, write: WriteVersion) -> None:
        url = write(1)
        loader = FetchingLoader(url, fetcher, lambda _: FakeLoader())
        assert loader.estimate_resources() == 6
        assert not is_cached(fetcher, url)


class TestAdapter:
    @pytest.fixture
    def adapter(self, fetcher: Fetcher) -> FetchingAdapter:
        adapter = FetchingAdapter(fetcher, PlatformAdapter({"tensorflow": FakePlatform()}))
        self.target = RecordingTarget[Loader]()
        adapter.connect(self.target)
        return adapter

    def aspire(self, adapter: FetchingAdapter, fetcher: Fetcher, *urls: str) -> None:
        adapter.set_aspired_versions(
            "m",
            [
                AspiredVersion(
                    ServableId("m", int(u[-1])),
                    VersionDirectory(u, ModelConfig("m", "memory://m")),
                    manifest(fetcher, u).digest,
                )
                for u in urls
            ],
        )

    def test_a_claimed_version_is_not_evicted_though_it_is_not_loaded(
        self, adapter: FetchingAdapter, fetcher: Fetcher, write: WriteVersion
    ) -> None:
        first, second = write(1), write(2)
        fetcher.fetch(first, threading.Event()).claim.release()
        self.aspire(adapter, fetcher, first)
        with pytest.raises(LoadError, match="no room"):
            fetcher.fetch(second, threading.Event())

        self.aspire(adapter, fetcher, second)

        fetcher.fetch(second, threading.Event())
        assert not is_cached(fetcher, first)

    def test_the_fetch_of_an_unwanted_version_is_cancelled(
        self, adapter: FetchingAdapter, fetcher: Fetcher, write: WriteVersion
    ) -> None:
        url = write(1)
        self.aspire(adapter, fetcher, url)
        (version,) = self.target.last("m")
        self.aspire(adapter, fetcher)
        assert isinstance(version.item, FetchingLoader)
        with pytest.raises(CancelledError):
            version.item.prepare()

        self.aspire(adapter, fetcher, url)
        (again,) = self.target.last("m")
        assert isinstance(again.item, FetchingLoader)
        again.item.prepare()

    def test_closing_ends_every_fetch(
        self, adapter: FetchingAdapter, fetcher: Fetcher, write: WriteVersion
    ) -> None:
        self.aspire(adapter, fetcher, write(1))
        (version,) = self.target.last("m")
        adapter.close()
        assert isinstance(version.item, FetchingLoader)
        with pytest.raises(CancelledError):
            version.item.prepare()


def test_a_fetch_waits_for_no_turn_to_load(fetcher: Fetcher, write: WriteVersion) -> None:
    url = write(1)
    loader = FetchingLoader(url, fetcher, lambda _: FakeLoader())
    harness = LoaderHarness(ServableId("m", 1), loader, retry=RetryPolicy(0))
    harness.request_load()
    harness.approve_load()
    turn = threading.Semaphore(0)  # taken by other loads
    thread = threading.Thread(target=harness.load, args=(lambda: None, turn))
    thread.start()
    for _ in range(1000):
        if is_cached(fetcher, url):
            break
        thread.join(0.01)
    assert is_cached(fetcher, url)
    assert thread.is_alive()
    turn.release()
    thread.join(10)
    assert loader.servable is not None


def test_content_that_changes_while_it_is_loaded_is_tried_without_retries_too() -> None:
    outcomes = iter(["half", "whole"])
    harness: LoaderHarness

    def on_load() -> None:
        if next(outcomes) == "half":
            harness.hasten_retry("another fingerprint")
            raise LoadError("half a model")

    harness = LoaderHarness(ServableId("m", 1), FakeLoader(on_load=on_load), retry=RetryPolicy(0))
    harness.request_load()
    harness.approve_load()
    harness.load(lambda: None)
    assert harness.error is None
