from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from servable._server.remote.cache import VersionCache
from servable._server.remote.locks import exclusive
from servable._server.remote.manifest import Manifest, RemoteFile
from servable.errors import CancelledError, Code, LoadError

NEVER = threading.Event()


def manifest(name: str, size: int = 10) -> Manifest:
    return Manifest(f"memory://{name}", (RemoteFile("dir/file", f"{name}/dir/file", size),))


def put(cache: VersionCache, version: Manifest, *, age: float = 0) -> Path:
    """Fetch a missing version, and set its age to `age` seconds."""
    claim = cache.claim(version.digest)
    with cache.fetching(version, NEVER) as directory:
        (directory / "dir").mkdir()
        (directory / "dir/file").write_bytes(b"x" * (version.files[0].size or 0))
        path = cache.publish(version)
    claim.release()
    if age:
        record = path.parent / "manifest.json"
        used = record.stat().st_mtime - age
        os.utime(record, (used, used))
    return path


def has(cache: VersionCache, version: Manifest) -> bool:
    return cache.find(version) is not None


def test_published_versions_are_found(cache: VersionCache) -> None:
    version = manifest("a")
    assert not has(cache, version)

    path = put(cache, version)

    assert cache.find(version) == path
    assert (path / "dir/file").read_bytes() == b"x" * 10
    assert cache.total_bytes() == 10


def test_partial_versions_are_kept_but_not_found(cache: VersionCache) -> None:
    version = manifest("a")
    with cache.fetching(version, NEVER) as directory:
        (directory / "half").write_bytes(b"x")
    assert not has(cache, version)
    with cache.fetching(version, NEVER) as directory:
        assert (directory / "half").read_bytes() == b"x"


@pytest.mark.parametrize("harm", ["truncate", "remove"])
def test_a_version_that_was_tampered_with_is_replaced(cache: VersionCache, harm: str) -> None:
    version = manifest("a")
    file = put(cache, version) / "dir/file"
    file.write_bytes(b"x") if harm == "truncate" else file.unlink()
    assert not has(cache, version)

    put(cache, version)

    assert has(cache, version)


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = VersionCache(tmp_path, max_bytes=30)
    old, older, new = manifest("old"), manifest("older"), manifest("new")
    put(cache, old, age=50)
    put(cache, older, age=100)
    put(cache, new)

    put(cache, manifest("newest"))

    assert not has(cache, older)
    assert has(cache, old)
    assert has(cache, new)
    assert cache.total_bytes() == 30


def test_using_a_version_makes_it_recent(tmp_path: Path) -> None:
    cache = VersionCache(tmp_path, max_bytes=20)
    first, second = manifest("first"), manifest("second")
    put(cache, first, age=100)
    put(cache, second, age=50)
    cache.claim(first.digest).release()

    put(cache, manifest("third"))

    assert has(cache, first)
    assert not has(cache, second)


def test_a_claimed_version_is_never_evicted(tmp_path: Path) -> None:
    cache = VersionCache(tmp_path, max_bytes=20)
    claimed, free = manifest("claimed"), manifest("free")
    put(cache, claimed, age=100)
    put(cache, free)
    claims = [cache.claim(claimed.digest), cache.claim(claimed.digest)]
    claims.pop().release()

    put(cache, manifest("new"))

    assert has(cache, claimed)
    assert not has(cache, free)


def test_another_server_respects_the_claim(tmp_path: Path) -> None:
    # Locks belong to open files, so two caches of one process exclude each other like two servers.
    mine, theirs = VersionCache(tmp_path, max_bytes=10), VersionCache(tmp_path, max_bytes=10)
    version = manifest("a")
    put(mine, version)
    claim = theirs.claim(version.digest)
    with pytest.raises(LoadError, match="versions in use leave too little") as raised:
        put(mine, manifest("b"))
    assert raised.value.code is Code.RESOURCE_EXHAUSTED
    assert has(mine, version)
    assert mine.total_bytes() == 10, "what found no room leaves nothing behind"

    claim.release()
    put(mine, manifest("b"))

    assert not has(mine, version)


def test_a_version_larger_than_the_cache_is_refused_and_evicts_nothing(tmp_path: Path) -> None:
    cache = VersionCache(tmp_path, max_bytes=20)
    small, large = manifest("small"), manifest("large", 21)
    put(cache, small)
    with (
        pytest.raises(LoadError, match="its limit is 20 bytes") as raised,
        cache.fetching(large, NEVER),
    ):
        pass
    assert raised.value.code is Code.RESOURCE_EXHAUSTED
    assert has(cache, small)
    assert cache.total_bytes() == 10


def test_a_version_counts_only_once_it_has_found_room(tmp_path: Path) -> None:
    cache = VersionCache(tmp_path, max_bytes=20)
    refused: list[Code] = []

    def fetch_large() -> None:
        try:
            with cache.fetching(manifest("large", 21), NEVER):
                pass
        except LoadError as error:
            refused.append(error.code)

    with exclusive(cache._lock_path("room"), NEVER):
        thread = threading.Thread(target=fetch_large)
        thread.start()
        while not list(tmp_path.glob("partial/*/content")):
            time.sleep(0.001)
        assert cache.total_bytes() == 0, "others would find no room"
    thread.join(10)
    assert refused == [Code.RESOURCE_EXHAUSTED]


def test_an_abandoned_partial_version_makes_room(tmp_path: Path) -> None:
    cache = VersionCache(tmp_path, max_bytes=10)
    abandoned = manifest("abandoned")
    with cache.fetching(abandoned, NEVER) as directory:
        (directory / "file").write_bytes(b"x")

    put(cache, manifest("new"))

    assert not (tmp_path / "partial" / abandoned.digest).exists()


def test_a_version_too_large_for_the_disk_is_refused_before_the_fetch(
    tmp_path: Path,
) -> None:
    cache = VersionCache(tmp_path, max_bytes=-1)
    with (
        pytest.raises(LoadError, match="the disk lacks") as raised,
        cache.fetching(manifest("huge", 1 << 60), NEVER),
    ):
        pass
    assert raised.value.code is Code.RESOURCE_EXHAUSTED


def test_one_server_fetches_while_the_other_waits(tmp_path: Path) -> None:
    mine, theirs = VersionCache(tmp_path, max_bytes=-1), VersionCache(tmp_path, max_bytes=-1)
    version = manifest("a")
    found: list[bool] = []

    def fetch_too() -> None:
        with theirs.fetching(version, NEVER):
            found.append(has(theirs, version))

    with mine.fetching(version, NEVER) as directory:
        thread = threading.Thread(target=fetch_too)
        thread.start()
        (directory / "dir").mkdir()
        (directory / "dir/file").write_bytes(b"x" * 10)
        mine.publish(version)
        assert not found
    thread.join(10)
    assert found == [True]


def test_waiting_for_another_server_can_be_cancelled(tmp_path: Path) -> None:
    mine, theirs = VersionCache(tmp_path, max_bytes=-1), VersionCache(tmp_path, max_bytes=-1)
    given_up = threading.Event()
    given_up.set()
    with (
        mine.fetching(manifest("a"), NEVER),
        pytest.raises(CancelledError),
        theirs.fetching(manifest("a"), given_up),
    ):
        pass


def test_no_lock_files_are_left(tmp_path: Path) -> None:
    cache = VersionCache(tmp_path, max_bytes=10)
    first = manifest("first")
    put(cache, first)
    put(cache, manifest("second"))
    left = {path.name for path in (tmp_path / "locks").iterdir()}
    assert left == {f"{manifest('second').digest}.claim"}, "only of what is there"
