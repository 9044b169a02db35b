from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from servable._server.remote.manifest import Manifest
from servable._server.remote.store import Children, RemoteStore
from servable.errors import Code, LoadError, ServableError
from servable.lifecycle._source import AspiredVersion
from servable.sources import All, Latest, Specific
from servable.sources._remote import RemoteServable, RemoteSource
from servable.sources._uploads import SETTLE_SECONDS
from servable.sources._version_policy import VersionPolicy
from servable.testing import RecordingTarget

fsspec = pytest.importorskip("fsspec")


class DatedStore(RemoteStore):
    """Reports the modification times of objects.

    Attributes:
        new: The directories with new objects.
    """

    def __init__(self) -> None:
        super().__init__()
        self.new: set[str] = set()

    def manifest(self, url: str) -> Manifest:
        age = 0.0 if url.rpartition("/")[2] in self.new else 3600.0
        listed = super().manifest(url)
        modified = time.time() - age
        return replace(
            listed, files=tuple(replace(file, modified_seconds=modified) for file in listed.files)
        )


class Bench:
    """A source whose pauses end on request of the test.

    Attributes:
        base_url: The base path of the stream `m`.
        pauses: The requested pauses of the source.
    """

    def __init__(self, store: RemoteStore | None = None) -> None:
        self.base_url = f"memory://{uuid.uuid4().hex}/m"
        self.pauses: list[float] = []
        self.target = RecordingTarget[str]()
        self.source = RemoteSource(store or DatedStore(), wait=self._wait)
        self._paused = threading.Semaphore(0)
        self._go_on = threading.Semaphore(0)

    def start(self, policy: VersionPolicy | None = None, **options: object) -> None:
        """Connect, and wait for the end of the first listing."""
        self.source.update([self.servable(policy, **options)])
        self.source.connect(self.target)
        self.wait()

    def servable(self, policy: VersionPolicy | None = None, **options: object) -> RemoteServable:
        return RemoteServable("m", self.base_url, policy or Latest(), **options)  # type: ignore[arg-type]

    def put(self, *names: object, file: str = "saved_model.pb", content: bytes = b"x") -> None:
        for name in names:
            fsspec.filesystem("memory").pipe(f"{self.base_url}/{name}/{file}", content)

    def remove(self, name: object) -> None:
        fsspec.filesystem("memory").rm(f"{self.base_url}/{name}", recursive=True)

    def poll(self) -> list[AspiredVersion[str]]:
        """Make the source list once more.

        Returns:
            The newest list of the stream.
        """
        self._go_on.release()
        self.wait()
        return self.target.last("m")

    def wait(self) -> None:
        assert self._paused.acquire(timeout=10)

    def versions(self) -> list[int]:
        return [version.id.version for version in self.target.last("m")]

    def end(self) -> None:
        for watch in range(10):
            del watch
            self._go_on.release()
        self.source.close(10)

    def _wait(self, stop: threading.Event, seconds: float) -> None:
        self.pauses.append(seconds)
        self._paused.release()
        if not stop.is_set():
            assert self._go_on.acquire(timeout=10)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.end()


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (Latest(), [10]),
        (Latest(0), [10]),
        (Latest(2), [10, 2]),
        (All(), [1, 2, 10]),
        (Specific((1, 10)), [1, 10]),
        (Specific((1, 5)), [1]),
    ],
)
def test_policies_pick_as_in_a_file_system(
    bench: Bench, policy: VersionPolicy, wanted: list[int]
) -> None:
    bench.put(1, 2, 10, "latest", "1a")
    fsspec.filesystem("memory").pipe(f"{bench.base_url}/99", b"a file is no version")

    bench.start(policy)

    assert bench.versions() == wanted


def test_versions_are_emitted_as_urls(bench: Bench) -> None:
    bench.put("003")
    bench.start()

    (version,) = bench.target.last("m")

    assert version.id.version == 3
    assert version.item == f"{bench.base_url}/003"


def test_a_new_version_is_taken_up(bench: Bench) -> None:
    bench.put(1)
    bench.start(poll_wait_seconds=7.0)
    bench.put(2)

    assert [version.id.version for version in bench.poll()] == [2]
    assert bench.pauses == [7.0, 7.0]


def test_new_content_changes_the_fingerprint_and_nothing_else_does(bench: Bench) -> None:
    bench.put(1)
    bench.start()
    (before,) = bench.target.last("m")
    (same,) = bench.poll()
    bench.put(1, file="variables", content=b"more")
    (after,) = bench.poll()

    assert before.fingerprint is not None
    assert same.fingerprint == before.fingerprint
    assert after.fingerprint != before.fingerprint


def test_a_missing_base_path_changes_nothing_and_is_reported(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.put(1)
    bench.start()
    bench.remove("")
    calls = len(bench.target.calls)

    for _ in range(2):
        bench.poll()

    assert len(bench.target.calls) == calls
    assert bench.source.problems()["m"].code is Code.NOT_FOUND
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1, "once, not at every listing"
    is_back = f"Base path {bench.base_url} for servable m can be listed now"
    assert is_back not in caplog.messages

    bench.put(1)
    for _ in range(2):
        bench.poll()

    assert caplog.messages.count(is_back) == 1


def test_a_failed_listing_is_soon_retried(bench: Bench) -> None:
    bench.start(poll_wait_seconds=5.0)
    for _ in range(4):
        bench._go_on.release()
        bench.wait()
    assert bench.pauses == [1.0, 2.0, 4.0, 5.0, 5.0]
    bench.put(1)
    bench.poll()
    assert bench.versions() == [1]
    assert not bench.source.problems()


@pytest.mark.parametrize(("keep", "wanted"), [(False, []), (True, [1])])
def test_the_last_version_is_kept_if_wished(bench: Bench, keep: bool, wanted: list[int]) -> None:
    bench.put(1, "notes")
    bench.start(keep_last_version=keep)
    bench.remove(1)
    bench.poll()

    assert bench.versions() == wanted
    assert bench.source.problems()["m"].code is Code.NOT_FOUND


def test_the_last_version_is_not_kept_if_none_is_asked_for(bench: Bench) -> None:
    bench.put(1)
    bench.start(Specific((1,)), keep_last_version=True)
    assert bench.versions() == [1]
    bench.source.update([bench.servable(Specific(()), keep_last_version=True)])
    bench.wait()

    assert bench.versions() == []


def test_with_a_period_of_0_there_is_one_good_listing() -> None:
    bench = Bench()
    bench.put(1)
    bench.source.update([bench.servable(poll_wait_seconds=0)])
    bench.source.connect(bench.target)
    bench.source.close(10)  # waits for the thread, which does not pause

    assert bench.versions() == [1]
    assert bench.pauses == []


def test_with_less_there_is_none() -> None:
    bench = Bench()
    bench.put(1)
    bench.source.update([bench.servable(poll_wait_seconds=-1)])
    bench.source.connect(bench.target)
    bench.source.close(10)

    assert not bench.target.calls
    assert "polling is off" in bench.source.problems()["m"].message


def test_a_stream_that_is_dropped_is_emptied(bench: Bench) -> None:
    bench.put(1)
    bench.start()
    bench.source.update([])
    assert bench.versions() == []
    assert not bench.source.problems()


def test_a_stream_that_changes_is_listed_at_once_and_not_emptied(bench: Bench) -> None:
    bench.put(1, 2)
    bench.start()
    bench.source.update([bench.servable(All())])
    bench.wait()
    assert [[v.id.version for v in versions] for _, versions in bench.target.calls] == [[2], [1, 2]]


class BrokenStore(RemoteStore):
    """Cannot list one version, or hangs at one base path."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: set[str] = set()
        self.hang: Callable[[], object] = lambda: None

    def children(self, base_url: str) -> Children:
        if base_url.endswith("/hangs"):
            self.hang()
        return super().children(base_url)

    def manifest(self, url: str) -> Manifest:
        if url.rsplit("/", 1)[1] in self.broken:
            raise LoadError("forbidden", code=Code.PERMISSION_DENIED)
        return super().manifest(url)


def test_a_version_that_cannot_be_listed_is_an_error_of_that_version() -> None:
    store = BrokenStore()
    bench = Bench(store)
    bench.put(1, 2)
    store.broken = {"2"}
    bench.start(All())
    one, two = bench.target.last("m")
    assert isinstance(one.item, str)
    assert isinstance(two.item, ServableError)
    assert two.item.code is Code.PERMISSION_DENIED

    store.broken = {"1"}
    same, listed = bench.poll()

    assert same == one, "what was listed before stays as it was"
    assert isinstance(listed.item, str)
    assert listed.fingerprint != two.fingerprint, "so that it is tried again"
    bench.end()


def test_a_version_that_has_vanished_is_forgotten() -> None:
    store = BrokenStore()
    bench = Bench(store)
    bench.put(1, 2)
    bench.start()
    bench.remove(2)
    assert [version.id.version for version in bench.poll()] == [1]
    bench.put(2)
    store.broken = {"2"}
    (version,) = bench.poll()
    assert isinstance(version.item, ServableError), "it is not the one that was listed before"
    bench.end()


def test_a_store_that_hangs_holds_up_one_stream() -> None:
    store = BrokenStore()
    released = threading.Event()
    store.hang = lambda: released.wait(10)
    bench = Bench(store)
    bench.put(1, "hangs/1")
    hangs = RemoteServable("h", f"{bench.base_url}/hangs", poll_wait_seconds=0)
    bench.source.update([hangs, bench.servable()])
    bench.source.connect(bench.target)
    bench.wait()

    assert bench.versions() == [1]
    assert "h" not in bench.source.problems(), "it is only slow so far"
    bench.source.update([bench.servable()])  # does not wait for it either
    (listing,) = (t for t in threading.enumerate() if t.name == "remote-source h")
    released.set()
    listing.join(10)
    bench.end()
    assert bench.target.last("h") == [], "what it says after it was dropped is not passed on"


def test_a_version_that_is_being_uploaded_is_looked_at_again_soon_and_not_served() -> None:
    store = DatedStore()
    bench = Bench(store)
    bench.put(1, 2)
    store.new = {"2"}
    bench.start(poll_wait_seconds=60.0)
    try:
        assert bench.versions() == [1]
        assert bench.pauses == [SETTLE_SECONDS]
        store.new.clear()
        assert [version.id.version for version in bench.poll()] == [2]
        assert bench.pauses[-1] == 60.0
    finally:
        bench.end()


def test_while_the_only_version_is_being_uploaded_the_reason_is_reported() -> None:
    store = DatedStore()
    bench = Bench(store)
    bench.put(1, 2)
    store.new = {"2"}
    bench.start(Specific((2,)), poll_wait_seconds=60.0)
    try:
        assert not bench.target.calls
        problem = bench.source.problems()["m"]
        assert problem.code is Code.UNAVAILABLE
        assert problem.message == f"Version 2 at {bench.base_url} is still being uploaded"
        store.new.clear()
        assert [version.id.version for version in bench.poll()] == [2]
        assert "m" not in bench.source.problems()
    finally:
        bench.end()


def test_a_version_without_all_its_files_is_held_back() -> None:
    bench = Bench(RemoteStore())  # reports no times
    bench.put(1)
    bench.put(2, file="variables/variables.index")
    bench.start(Latest(2), has_all_files=lambda files, _: "saved_model.pb" in files)
    try:
        assert bench.versions() == [1]
        assert bench.pauses == [SETTLE_SECONDS]
    finally:
        bench.end()


def test_a_change_of_what_is_wanted_does_not_hurry_an_upload() -> None:
    bench = Bench(RemoteStore())  # reports no times
    bench.put(1)
    bench.start()
    try:
        bench.put(2)
        assert [version.id.version for version in bench.poll()] == [1]
        bench.source.update([bench.servable(All())])
        bench.wait()
        assert bench.versions() == [1]
    finally:
        bench.end()


class EmptyingStore(DatedStore):
    """Lists empty directories, like stores that keep them.

    Attributes:
        empty: The empty directories.
    """

    def __init__(self) -> None:
        super().__init__()
        self.empty: set[str] = set()

    def manifest(self, url: str) -> Manifest:
        if url.rpartition("/")[2] in self.empty:
            raise LoadError(f"There are no files in {url}", code=Code.NOT_FOUND)
        return super().manifest(url)


def test_a_version_whose_files_were_removed_is_gone_though_its_directory_is_listed() -> None:
    store = EmptyingStore()
    bench = Bench(store)
    bench.put(1, 2)
    bench.start()
    try:
        assert bench.versions() == [2]
        store.empty = {"2"}
        assert [version.id.version for version in bench.poll()] == [2], "the store may have failed"
        assert [version.id.version for version in bench.poll()] == [1]
        store.empty.clear()
        assert [version.id.version for version in bench.poll()] == [2]
    finally:
        bench.end()


def test_a_directory_without_files_is_no_version() -> None:
    store = EmptyingStore()
    store.empty = {"2"}
    bench = Bench(store)
    bench.put(1, 2)
    bench.start()
    try:
        assert bench.versions() == [1]
        assert bench.pauses == [60.0], "nothing is awaited there"
    finally:
        bench.end()


def test_a_base_path_that_holds_a_version_itself_is_version_1() -> None:
    bench = Bench()
    memory = fsspec.filesystem("memory")
    memory.pipe(f"{bench.base_url}/saved_model.pb", b"x")
    bench.start(has_all_files=lambda files, _: {"saved_model.pb", "variables/index"} <= {*files})
    assert bench.versions() == []
    memory.pipe(f"{bench.base_url}/variables/index", b"x")
    (version,) = bench.poll()
    assert (version.id.version, version.item) == (1, bench.base_url)
    # If there is a numbered directory, only such directories count.
    bench.put(7, file="saved_model.pb")
    bench.put(7, file="variables/index")
    (version,) = bench.poll()
    assert (version.id.version, version.item) == (7, f"{bench.base_url}/7")
    bench.end()


def test_a_file_as_base_path_is_explained_with_the_remedy() -> None:
    bench = Bench()
    fsspec.filesystem("memory").pipe(f"{bench.base_url}", b"x")
    bench.start()
    problem = bench.source.problems()["m"].message
    assert "; m is a file; a base path is a directory that holds a numbered directory" in problem
    bench.end()

    bench = Bench()
    fsspec.filesystem("memory").pipe(f"{bench.base_url}/m.keras", b"x")
    bench.start()
    assert "; m.keras is a Keras model; write a version" in bench.source.problems()["m"].message
    bench.end()
