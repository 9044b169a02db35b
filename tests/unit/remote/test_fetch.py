from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from servable._server.remote.cache import VersionCache
from servable._server.remote.fetch import Fetcher, FetchOptions
from servable._server.remote.manifest import Checksum, Manifest, RemoteFile
from servable._server.remote.store import RemoteStore
from servable.errors import CancelledError, Code, LoadError, ServableError

WriteVersion = Callable[..., str]

NEVER = threading.Event()
FILES = {"saved_model.pb": b"graph", "variables/variables.index": b"i" * 100, "assets/empty": b""}


class ScriptedStore(RemoteStore):
    """A real store whose reads break as programmed, and are recorded.

    Attributes:
        reads: Path and offset of each read.
        lengths: The number of bytes of each of the next reads before it breaks.
        damage: The modification of each of the next reads.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[str, int]] = []
        self.lengths: list[int] = []
        self.damage = 0
        self.checksums: dict[str, Checksum] = {}

    def manifest(self, url: str) -> Manifest:
        listed = super().manifest(url)
        files = (
            RemoteFile(f.path, f.location, f.size, f.revision, self.checksums.get(f.path))
            for f in listed.files
        )
        return Manifest(url, tuple(files))

    def read(
        self, url: str, file: RemoteFile, offset: int, *, gently: bool = False
    ) -> Iterator[tuple[int, bytes]]:
        self.reads.append((file.path, offset))
        limit = self.lengths.pop(0) if self.lengths else None
        for start, block in super().read(url, file, offset, gently=gently):
            if self.damage:
                self.damage -= 1
                yield start, bytes(len(block))
            elif limit is None:
                yield start, block
            else:
                if limit:
                    yield start, block[:limit]
                raise LoadError("connection reset", code=Code.UNAVAILABLE)


@pytest.fixture
def store() -> ScriptedStore:
    return ScriptedStore()


@pytest.fixture
def fetcher(store: ScriptedStore, cache: VersionCache) -> Fetcher:
    return Fetcher(store, cache, FetchOptions(attempts=3, backoff_seconds=0))


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_a_version_is_fetched_as_it_is(
    fetcher: Fetcher, write: WriteVersion, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    url = write(1, FILES)

    fetched = fetcher.fetch(url, NEVER)

    assert contents(fetched.path) == FILES
    assert f"Fetching {url}: 3 files, 105 bytes" in caplog.text
    assert f"Fetched {url}: 105 bytes in" in caplog.text


def test_cached_versions_are_not_fetched_again(
    fetcher: Fetcher, store: ScriptedStore, write: WriteVersion
) -> None:
    url = write(1, FILES)
    first = fetcher.fetch(url, NEVER)
    store.reads.clear()

    assert fetcher.fetch(url, NEVER).path == first.path
    assert not store.reads


def test_new_content_is_another_entry(fetcher: Fetcher, write: WriteVersion) -> None:
    old = fetcher.fetch(write(1, {"f": b"old"}), NEVER)
    new = fetcher.fetch(write(1, {"f": b"newer"}), NEVER)

    assert contents(old.path) == {"f": b"old"}
    assert contents(new.path) == {"f": b"newer"}


def test_a_broken_read_is_resumed(
    fetcher: Fetcher, store: ScriptedStore, write: WriteVersion
) -> None:
    store.lengths = [40, 30]

    fetched = fetcher.fetch(write(1, {"f": bytes(range(100))}), NEVER)

    assert store.reads == [("f", 0), ("f", 40), ("f", 70)]
    assert contents(fetched.path) == {"f": bytes(range(100))}


def test_progress_grants_more_attempts_and_none_ends_them(
    fetcher: Fetcher, store: ScriptedStore, write: WriteVersion
) -> None:
    url = write(1, {"f": bytes(range(100))})
    store.lengths = [1] * 10 + [0] * 3
    with pytest.raises(ServableError, match="connection reset") as raised:
        fetcher.fetch(url, NEVER)
    assert raised.value.code is Code.UNAVAILABLE
    assert len(store.reads) == 12, "the last one that brought something is the first failure"

    store.reads.clear()
    store.lengths.clear()
    fetched = fetcher.fetch(url, NEVER)

    assert store.reads == [("f", 10)], "the next fetch goes on where this one ended"
    assert contents(fetched.path) == {"f": bytes(range(100))}


def test_damage_on_the_way_is_found_and_mended(
    fetcher: Fetcher, store: ScriptedStore, write: WriteVersion
) -> None:
    store.checksums["f"] = Checksum("md5", "8277e0910d750195b448797616e091ad")  # of b"d"
    store.damage = 1

    fetched = fetcher.fetch(write(1, {"f": b"d"}), NEVER)

    assert store.reads == [("f", 0), ("f", 0)]
    assert contents(fetched.path) == {"f": b"d"}


def test_damage_at_the_store_is_an_error_of_the_version(
    fetcher: Fetcher, store: ScriptedStore, cache: VersionCache, write: WriteVersion
) -> None:
    url = write(1, {"f": b"not d"})
    store.checksums["f"] = Checksum("md5", "8277e0910d750195b448797616e091ad")
    with pytest.raises(
        LoadError, match=r"f of .* was not fetched intact: its md5 is not"
    ) as raised:
        fetcher.fetch(url, NEVER)
    assert raised.value.code is Code.DATA_LOSS
    assert len(store.reads) == 3
    assert cache.find(store.manifest(url)) is None


def test_checksums_can_be_ignored(
    store: ScriptedStore, cache: VersionCache, write: WriteVersion
) -> None:
    store.checksums["f"] = Checksum("md5", "0" * 32)
    fetcher = Fetcher(store, cache, FetchOptions(verify_checksums=False))

    assert contents(fetcher.fetch(write(1, {"f": b"x"}), NEVER).path) == {"f": b"x"}


def test_a_version_that_changes_meanwhile_is_not_published(
    fetcher: Fetcher, store: ScriptedStore, cache: VersionCache, write: WriteVersion
) -> None:
    url = write(1, {"a": b"x"})
    before = store.manifest(url)
    read = store.read

    def read_and_add(*args: Any, **options: Any) -> Iterator[tuple[int, bytes]]:
        write(1, {"b": b"y"})
        return read(*args, **options)

    store.read = read_and_add  # type: ignore[method-assign]
    with pytest.raises(LoadError, match="has changed while it was fetched") as raised:
        fetcher.fetch(url, NEVER)
    assert raised.value.code is Code.ABORTED
    assert cache.find(before) is None

    store.read = read  # type: ignore[method-assign]
    assert contents(fetcher.fetch(url, NEVER).path) == {"a": b"x", "b": b"y"}


def test_a_fetch_can_be_cancelled(
    fetcher: Fetcher, store: ScriptedStore, write: WriteVersion
) -> None:
    cancelled = threading.Event()
    read = store.read

    def read_and_lose_interest(*args: Any, **options: Any) -> Iterator[tuple[int, bytes]]:
        for item in read(*args, **options):
            cancelled.set()
            yield item

    store.read = read_and_lose_interest  # type: ignore[method-assign]
    with pytest.raises(CancelledError):
        fetcher.fetch(write(1, FILES), cancelled)


def test_a_fetch_can_be_cancelled_while_the_store_hangs(
    fetcher: Fetcher, store: ScriptedStore, write: WriteVersion
) -> None:
    cancelled, released, ended = threading.Event(), threading.Event(), threading.Event()
    read = store.read

    def hang(*args: Any, **options: Any) -> Iterator[tuple[int, bytes]]:
        cancelled.set()
        released.wait(30)
        try:
            yield from read(*args, **options)
        finally:
            ended.set()

    store.read = hang  # type: ignore[method-assign]
    with pytest.raises(CancelledError):
        fetcher.fetch(write(1, {"f": b"late"}), cancelled)

    released.set()
    assert ended.wait(10)
    late = list(fetcher.cache.directory.rglob("f"))
    assert [path.read_bytes() for path in late] == [b""], "it came too late to be written"


def test_a_version_without_files_is_not_found(fetcher: Fetcher, base_url: str) -> None:
    with pytest.raises(ServableError) as raised:
        fetcher.fetch(f"{base_url}/1", NEVER)
    assert raised.value.code is Code.NOT_FOUND


def test_a_failed_fetch_claims_nothing(
    store: ScriptedStore, tmp_path: Path, write: WriteVersion
) -> None:
    cache = VersionCache(tmp_path / "cache", max_bytes=5)
    fetcher = Fetcher(store, cache, FetchOptions(attempts=1))
    store.lengths = [0]
    with pytest.raises(ServableError):
        fetcher.fetch(write(1, {"f": b"12345"}), NEVER)

    fetcher.fetch(write(2, {"f": b"67890"}), NEVER)


def test_local_directories_can_be_fetched_by_url(fetcher: Fetcher, tmp_path: Path) -> None:
    version = tmp_path / "m/1"
    for path, content in FILES.items():
        (version / path).parent.mkdir(parents=True, exist_ok=True)
        (version / path).write_bytes(content)

    assert contents(fetcher.fetch(f"file://{version}", NEVER).path) == FILES


def test_large_files_are_read_in_ranges(fetcher: Fetcher, write: WriteVersion) -> None:
    content = bytes(range(256)) * (40 << 12)  # 40 MiB: two rounds of ranges, the last one short
    fetched = fetcher.fetch(write(1, {"f": content}), NEVER)

    assert (fetched.path / "f").read_bytes() == content


def test_memory_is_where_the_tests_think_it_is(write: WriteVersion) -> None:
    assert fsspec.filesystem("memory").cat_file(write(1) + "/saved_model.pb") == b"graph"
