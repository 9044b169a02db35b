from __future__ import annotations

import pytest

from servable._server.remote.manifest import Manifest, RemoteFile, describe
from servable.sources._uploads import INCOMPLETE_SECONDS, SETTLE_SECONDS, Uploads

NOW = 1_000_000.0


def manifest(*files: tuple[str, float | None], url: str = "s3://b/m/1") -> Manifest:
    """The files of a version, with their ages."""
    return Manifest(
        url,
        tuple(
            RemoteFile(name, name, 1, name, modified_seconds=None if age is None else NOW - age)
            for name, age in files
        ),
    )


@pytest.mark.parametrize(
    ("files", "is_complete"),
    [
        ([("graph", 60.0), ("weights", SETTLE_SECONDS)], True),
        ([("graph", 60.0), ("weights", SETTLE_SECONDS - 0.1)], False),
        ([("graph", -3600.0)], False),
    ],
)
def test_a_version_is_complete_once_none_of_its_objects_is_new(
    files: list[tuple[str, float | None]], is_complete: bool
) -> None:
    assert Uploads(wall_clock=lambda: NOW).is_complete(manifest(*files)) is is_complete


def test_with_a_store_clock_ahead_a_version_settles_by_being_unchanged() -> None:
    seconds = 0.0
    uploads = Uploads(clock=lambda: seconds, wall_clock=lambda: NOW)
    assert not uploads.is_complete(manifest(("graph", -3600.0)))
    seconds += SETTLE_SECONDS
    grown = manifest(("graph", -3600.0), ("weights", -3600.0))
    assert not uploads.is_complete(grown)
    seconds += SETTLE_SECONDS - 0.1
    assert not uploads.is_complete(grown)
    seconds += 0.1
    assert uploads.is_complete(grown)


def test_without_times_a_version_settles_by_being_old_or_unchanged() -> None:
    seconds = 0.0
    uploads = Uploads(clock=lambda: seconds)
    uploads.keep(["s3://b/m/1"])
    assert uploads.is_complete(manifest(("graph", None)))
    late, unwanted = (manifest(("graph", None), url=f"s3://b/m/{n}") for n in (2, 3))
    uploads.keep(["s3://b/m/1", late.url, unwanted.url])
    assert not uploads.is_complete(late)
    seconds += SETTLE_SECONDS
    grown = manifest(("graph", None), ("weights", None), url=late.url)
    assert not uploads.is_complete(grown)
    assert uploads.is_complete(unwanted), "has been there for as long, though nobody looked"
    seconds += SETTLE_SECONDS
    assert uploads.is_complete(grown)


def test_versions_complete_before_the_start_are_not_held_back() -> None:
    def uploads(*urls: str) -> Uploads:
        made = Uploads(wall_clock=lambda: NOW, started_seconds=NOW - 0.5)
        made.keep(urls)
        return made

    whole = manifest(("graph", 1.0))
    assert uploads(whole.url).is_complete(whole)
    assert not uploads(whole.url).is_complete(whole, lambda: False)
    newer = manifest(("graph", 0.1))
    assert not uploads(newer.url).is_complete(newer)
    found_later = uploads()
    found_later.keep([whole.url])
    assert not found_later.is_complete(whole)


@pytest.mark.parametrize("age", [None, 0.0])
def test_a_version_without_a_required_file_is_held_back_for_a_limited_time(
    age: float | None,
) -> None:
    seconds = 0.0
    uploads = Uploads(clock=lambda: seconds, wall_clock=lambda: NOW + seconds)
    headless = manifest(("weights", age))
    uploads.keep([headless.url])
    assert not uploads.is_complete(headless, lambda: False)
    seconds = INCOMPLETE_SECONDS - 0.1
    assert not uploads.is_complete(headless, lambda: False)
    seconds = INCOMPLETE_SECONDS
    assert uploads.is_complete(headless, lambda: False)


def test_whether_files_are_missing_is_asked_once_for_each_content() -> None:
    asked = 0

    def has_all_files() -> bool:
        nonlocal asked
        asked += 1
        return asked > 1

    uploads = Uploads(wall_clock=lambda: NOW)
    for _ in range(3):
        assert not uploads.is_complete(manifest(("graph", 10.0)), has_all_files)
    assert asked == 1
    assert uploads.is_complete(manifest(("graph", 10.0), ("weights", 10.0)), has_all_files)
    assert uploads.is_complete(manifest(("graph", 10.0), ("weights", 10.0)), has_all_files)
    assert asked == 2


def test_a_complete_version_stays_complete_until_it_vanishes() -> None:
    uploads = Uploads(wall_clock=lambda: NOW)
    assert uploads.is_complete(manifest(("graph", 60.0)))
    changed = manifest(("graph", 60.0), ("weights", 0.0))
    assert uploads.is_complete(changed)
    uploads.keep(["s3://b/m/1"])
    assert uploads.is_complete(changed)
    uploads.keep([])
    assert not uploads.is_complete(changed)


@pytest.mark.parametrize(
    "time",
    ["2001-09-09T01:46:40Z", "Sun, 09 Sep 2001 01:46:40 GMT", 1_000_000_000, "not a time"],
)
def test_times_are_read_as_drivers_write_them(time: object) -> None:
    file = describe("gs", "graph", {"name": "graph", "size": 1, "updated": time}, False)
    assert file.modified_seconds == (None if time == "not a time" else 1e9)
