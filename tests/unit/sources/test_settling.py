from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from servable.errors import NotFoundError
from servable.sources import (
    All,
    FileSystemSource,
    Latest,
    MonitoredServable,
    SettleTimes,
    Specific,
)
from servable.sources._settling import look_at
from servable.sources._version_policy import VersionPolicy
from servable.testing import FakeClock, RecordingTarget


def has_model(path: str) -> bool:
    return os.path.exists(os.path.join(path, "model"))


class Settled:
    """A source that is polled manually; versions settle in one second, incomplete ones in ten."""

    def __init__(
        self,
        base: Path,
        policy: VersionPolicy | None = None,
        *,
        is_complete: Callable[[str], bool] | None = has_model,
        keep_last_version: bool = False,
        wall_offset: float = -3600.0,
    ) -> None:
        base.mkdir(exist_ok=True)
        self.clock = FakeClock()
        # By default the file server's clock is an hour ahead, so that only repeated inspections help.
        self.wall_offset = wall_offset
        self.target = RecordingTarget[str]()
        self.source = FileSystemSource(
            [MonitoredServable("m", str(base), policy or Latest(), keep_last_version, is_complete)],
            poll_wait_seconds=-1,
            settle_times=SettleTimes(1.0, 10.0),
            clock=self.clock,
            wall_clock=lambda: time.time() + self.wall_offset,
        )
        self.source.connect(self.target)

    def versions(self) -> list[int] | None:
        """The aspired versions after another poll; `None` before the first list."""
        self.source.poll()
        return [v.id.version for v in self.target.last("m")] if self.target.calls else None


def write(version: Path, *files: str) -> Path:
    version.mkdir(parents=True, exist_ok=True)
    for file in files:
        with (version / file).open("a") as opened:
            opened.write("x")
    return version


def test_a_version_that_changes_is_held_back_until_it_looks_the_same_for_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    test = Settled(tmp_path / "m")
    version = write(tmp_path / "m/1", "model")
    for _ in range(5):
        assert test.versions() is None
        test.clock.now += 0.9
        write(version, "model")
    assert test.source.problems() == {}, "it is expected, which is no problem"
    assert test.versions() is None
    test.clock.now += 1.0
    assert test.versions() == [1]
    write(version, "model")
    assert test.versions() == [1], "what has settled once stays"
    assert [r.message for r in caplog.records].count(
        f"Version at {version} is held back while it is being written"
    ) == 1


def test_a_version_that_is_renamed_into_its_place_is_served_at_once(tmp_path: Path) -> None:
    test = Settled(tmp_path / "m")
    aside = write(tmp_path / "aside", "model")
    # File times advance in ticks; a writer needs longer than one.
    while not look_at(str(aside)).is_sealed:
        aside = aside.rename(tmp_path / ("aside2" if aside.name == "aside" else "aside"))
    aside.rename(tmp_path / "m/1")
    assert test.versions() == [1]


def test_a_writer_that_sets_the_times_of_the_directory_last_has_finished(tmp_path: Path) -> None:
    test = Settled(tmp_path / "m")
    os.utime(write(tmp_path / "m/1", "model"), (1, 1))
    assert test.versions() == [1]


def test_a_version_complete_before_the_start_is_served_at_once(
    tmp_path: Path,
) -> None:
    write(tmp_path / "m/1", "model")
    write(tmp_path / "n/1")
    for name, expected in (("m", [1]), ("n", None)):
        test = Settled(tmp_path / name, wall_offset=0.1)  # coarse file times
        assert test.versions() == expected
    write(tmp_path / "n/1", "model")
    test = Settled(tmp_path / "m", wall_offset=0.1)
    write(tmp_path / "m/2", "model")
    os.utime(tmp_path / "m/2", (time.time() + 1, time.time() + 1))
    assert test.versions() == [1], "what comes later has to settle"


def test_a_version_that_has_been_there_for_a_while_is_served_at_once(tmp_path: Path) -> None:
    test = Settled(tmp_path / "m")
    write(tmp_path / "m/1", "model")
    test.wall_offset = 1.5
    assert test.versions() == [1]


def test_an_incomplete_version_is_held_back_longer_but_not_for_ever(tmp_path: Path) -> None:
    test = Settled(tmp_path / "m")
    write(tmp_path / "m/1", "variables")
    test.wall_offset = 9.0
    for _ in range(3):
        assert test.versions() is None
        test.clock.now += 4.0
    assert test.versions() == [1], "now its loader may say what is wrong with it"


def test_an_incomplete_version_that_is_completed_is_served(tmp_path: Path) -> None:
    test = Settled(tmp_path / "m")
    test.wall_offset = 5.0
    version = write(tmp_path / "m/1", "variables")
    assert test.versions() is None
    write(version, "model")
    assert test.versions() == [1]


@pytest.mark.parametrize(
    ("policy", "before", "after"),
    [
        (Latest(), [1], [2]),
        (Latest(2), [1], [2, 1]),
        (All(), [1], [1, 2]),
        (Specific((1, 2)), [1], [1, 2]),
        (Specific((2,)), [], [2]),
    ],
)
def test_the_versions_that_are_there_serve_while_another_is_written(
    tmp_path: Path, policy: VersionPolicy, before: list[int], after: list[int]
) -> None:
    test = Settled(tmp_path / "m", policy)
    os.utime(write(tmp_path / "m/1", "model"), (1, 1))
    write(tmp_path / "m/2", "model")
    assert (test.versions() or []) == before
    test.clock.now += 1.0
    assert test.versions() == after


def test_the_last_version_is_not_unloaded_while_its_successor_is_written(tmp_path: Path) -> None:
    test = Settled(tmp_path / "m")
    first = write(tmp_path / "m/1", "model")
    os.utime(first, (1, 1))
    assert test.versions() == [1]
    first.rename(tmp_path / "gone")
    write(tmp_path / "m/2", "model")
    assert test.versions() == [1]
    test.clock.now += 1.0
    assert test.versions() == [2]


def test_a_version_that_is_overtaken_is_no_longer_waited_for(tmp_path: Path) -> None:
    test = Settled(tmp_path / "m")
    write(tmp_path / "m/1", "half")
    assert test.versions() is None
    os.utime(write(tmp_path / "m/2", "model"), (1, 1))
    assert test.versions() == [2]
    (tmp_path / "m/2").rename(tmp_path / "gone")
    (tmp_path / "m/1").rename(tmp_path / "gone too")
    assert test.versions() == []


def test_a_version_that_vanished_has_to_settle_again(tmp_path: Path) -> None:
    test = Settled(tmp_path / "m")
    os.utime(write(tmp_path / "m/1", "model"), (1, 1))
    assert test.versions() == [1]
    (tmp_path / "m/1").rename(tmp_path / "gone")
    assert test.versions() == []
    write(tmp_path / "m/1", "half")
    assert test.versions() == []


def test_links_are_followed_and_a_dangling_one_does_no_harm(tmp_path: Path) -> None:
    test = Settled(tmp_path / "m")
    target = write(tmp_path / "elsewhere", "model")
    (target / "dead").symlink_to(tmp_path / "nowhere")
    (tmp_path / "m/1").symlink_to(target)
    assert test.versions() is None
    test.clock.now += 1.0
    assert test.versions() == [1]


def test_with_a_long_poll_interval_held_back_versions_are_still_inspected(tmp_path: Path) -> None:
    """Polled once; the version settles while the test waits for nothing else."""
    base = tmp_path / "m"
    write(base / "1", "model")
    clock, target = FakeClock(), RecordingTarget[str]()
    source = FileSystemSource(
        [MonitoredServable("m", str(base))],
        poll_wait_seconds=0,
        settle_times=SettleTimes(1.0),
        clock=clock,
        wall_clock=lambda: 0.0,
        wait=clock.wait,
    )
    source.connect(target)
    deadline = time.monotonic() + 10
    while not target.calls and time.monotonic() < deadline:
        time.sleep(0.001)
    assert [v.id.version for v in target.last("m")] == [1]
    assert sum(clock.waits) >= 1.0
    source.close(10)


class TestBareBasePaths:
    def test_a_model_without_a_version_directory_is_version_1(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        test = Settled(tmp_path / "m")
        os.utime(write(tmp_path / "m", "model"), (1, 1))
        assert test.versions() == [1]
        assert test.target.last("m")[0].item == str(tmp_path / "m")
        assert "it is served as version 1" in caplog.text

    @pytest.mark.parametrize(("wanted", "found"), [((1,), [1]), ((2,), []), ((2, 1), [1])])
    def test_it_has_no_other_version(
        self, tmp_path: Path, wanted: tuple[int, ...], found: list[int]
    ) -> None:
        test = Settled(tmp_path / "m", Specific(wanted))
        os.utime(write(tmp_path / "m", "model"), (1, 1))
        assert test.versions() == found

    def test_version_directories_count_for_more(self, tmp_path: Path) -> None:
        test = Settled(tmp_path / "m", All())
        write(tmp_path / "m", "model")
        os.utime(write(tmp_path / "m/7", "model"), (1, 1))
        assert test.versions() == [7]

    def test_a_base_path_is_no_version_without_a_predicate(self, tmp_path: Path) -> None:
        test = Settled(tmp_path / "m", is_complete=None)
        os.utime(write(tmp_path / "m", "model"), (1, 1))
        assert test.versions() == []


class TestKeepingTheLastVersion:
    def test_it_is_aspired_until_another_version_exists(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        base = tmp_path / "m"
        test = Settled(base, keep_last_version=True)
        os.utime(write(base / "1", "model"), (1, 1))
        assert test.versions() == [1]
        (base / "1").rename(tmp_path / "gone")
        assert test.versions() == [1]
        assert "Refusing to unload all versions for Servable: m" in caplog.text
        base.rmdir()
        assert test.versions() == [1]
        os.utime(write(base / "2", "model"), (1, 1))
        assert test.versions() == [2]

    def test_a_policy_that_names_no_version_keeps_none(self, tmp_path: Path) -> None:
        base = tmp_path / "m"
        test = Settled(base, keep_last_version=True)
        os.utime(write(base / "1", "model"), (1, 1))
        assert test.versions() == [1]
        test.source.update([MonitoredServable("m", str(base), Specific(()), True)])
        assert test.versions() == []


class TestVersionsThatHaveToBeThere:
    @pytest.mark.parametrize(
        "option", ["fail_if_zero_versions", "servable_versions_always_present"]
    )
    def test_a_stream_without_one_is_refused(self, tmp_path: Path, option: str) -> None:
        options = {option: True}
        source = FileSystemSource(poll_wait_seconds=-1, **options)  # type: ignore[arg-type]
        write(tmp_path / "good/1", "half")
        good = MonitoredServable("good", str(tmp_path / "good"))
        source.check([good])
        write(tmp_path / "empty")
        for name in ("empty", "missing"):
            bad = MonitoredServable(name, str(tmp_path / name))
            with pytest.raises(NotFoundError) as info:
                source.check([good, bad])
            assert info.value.message == (
                f"Unable to find a numerical version path for servable {name} at: {tmp_path / name}"
            )

    def test_missing_base_paths_are_accepted_by_default(self, tmp_path: Path) -> None:
        FileSystemSource().check([MonitoredServable("missing", str(tmp_path / "missing"))])
