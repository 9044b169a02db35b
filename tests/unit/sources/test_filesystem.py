from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from servable.errors import Code
from servable.lifecycle._ids import ServableId
from servable.sources import All, FileSystemSource, Latest, MonitoredServable, Specific
from servable.sources._filesystem import parse_version
from servable.sources._version_policy import VersionPolicy
from servable.testing import FakeClock, RecordingTarget


def directories(base: Path, *names: str) -> Path:
    for name in names:
        (base / name).mkdir(parents=True)
    base.mkdir(exist_ok=True)
    return base


class Connected:
    """A source that is polled manually."""

    def __init__(self, *servables: MonitoredServable, always_present: bool = False) -> None:
        self.target = RecordingTarget[str]()
        self.source = FileSystemSource(
            servables, poll_wait_seconds=-1, servable_versions_always_present=always_present
        )
        self.source.connect(self.target)

    def versions(self, name: str = "m") -> list[int]:
        self.source.poll()
        return [version.id.version for version in self.target.last(name)]


def connected(base: Path, policy: VersionPolicy | None = None) -> Connected:
    return Connected(MonitoredServable("m", str(base), policy or Latest()))


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (Latest(), [10]),
        (Latest(0), [10]),
        (Latest(2), [10, 2]),
        (Latest(9), [10, 2, 1]),
        (All(), [1, 10, 2]),
        (Specific((1, 10)), [1, 10]),
        (Specific((1, 5)), [1]),
        (Specific((5,)), []),
        (Specific(()), []),
    ],
)
def test_policies_pick_as_the_table_says(
    tmp_path: Path, policy: VersionPolicy, wanted: list[int]
) -> None:
    base = directories(tmp_path / "m", "1", "2", "10", "temp-11")
    (base / "README").touch()
    assert connected(base, policy).versions() == wanted


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("1", 1),
        ("00000123", 123),
        ("-3", -3),
        ("+7", 7),
        (" 5 ", 5),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", None),
        ("", None),
        ("v1", None),
        ("1.tmp", None),
        ("2.5", None),
        ("1_000", None),
        ("\N{ARABIC-INDIC DIGIT ONE}", None),
        ("0x10", None),
        ("temp-123", None),
    ],
)
def test_a_name_is_a_version_or_not(name: str, version: int | None) -> None:
    assert parse_version(name) == version


def test_the_path_keeps_the_literal_name(tmp_path: Path) -> None:
    test = connected(directories(tmp_path / "m", "00000123"))
    test.source.poll()
    (version,) = test.target.last("m")
    assert (version.id.version, version.item) == (123, str(tmp_path / "m/00000123"))


def test_stray_files_are_no_versions_but_links_to_directories_are(tmp_path: Path) -> None:
    base = directories(tmp_path / "m", "1")
    (base / "5").touch()
    (base / "4").symlink_to(tmp_path / "nowhere")
    (base / "3").symlink_to(directories(tmp_path / "elsewhere"))
    assert connected(base, All()).versions() == [1, 3]


def test_a_missing_base_path_concerns_its_own_model_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = directories(tmp_path / "b", "1")
    test = Connected(
        MonitoredServable("a", str(tmp_path / "missing")), MonitoredServable("b", str(base))
    )
    assert test.versions("b") == [1]
    assert [name for name, _ in test.target.calls] == ["b"]
    problem = test.source.problems()["a"]
    assert problem.code is Code.INVALID_ARGUMENT
    missing = tmp_path / "missing"
    assert problem.message == (
        f"Could not find base path {missing} for servable a "
        f"with error NOT_FOUND: {missing} not found"
    )
    assert "FileSystemStoragePathSource encountered a filesystem access error" in caplog.text


def test_a_base_path_that_vanishes_changes_nothing_and_an_empty_one_unloads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    base = directories(tmp_path / "m", "1")
    test = connected(base)
    assert test.versions() == [1]
    base.rename(tmp_path / "away")
    test.source.poll()
    assert len(test.target.calls) == 1
    is_back = f"Base path {base} for servable m can be read now"
    assert is_back not in caplog.messages
    directories(base)
    assert test.versions() == []
    assert test.source.problems()["m"].message == (
        f"Unable to find a numerical version path for servable m at: {base}"
    )
    (tmp_path / "away/1").rename(base / "1")
    assert test.versions() == [1]
    assert test.source.problems() == {}
    assert caplog.messages.count(is_back) == 1


def test_the_last_version_is_kept_where_some_version_must_always_be_present(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = directories(tmp_path / "m", "1")
    test = Connected(MonitoredServable("m", str(base)), always_present=True)
    assert test.versions() == [1]
    (base / "1").rmdir()
    assert test.versions() == [1]
    assert "Refusing to unload all versions for Servable: m" in caplog.text


def test_of_two_names_of_one_version_the_last_wins(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    test = connected(directories(tmp_path / "m", "7", "007"))
    assert test.versions() == [7]
    assert test.target.last("m")[0].item == str(tmp_path / "m/7")
    assert "Duplicate version directories detected. Version 7" in caplog.text


@pytest.mark.parametrize(
    ("names", "policy", "warning"),
    [
        ([], Latest(), "No versions of servable m found under base path"),
        (["1"], Specific(()), "No specific versions requested for servable m."),
        (["1"], Specific((1, 5)), "Version 5 of servable m, which was requested"),
    ],
)
def test_irregularities_are_reported_once(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    names: Iterable[str],
    policy: VersionPolicy,
    warning: str,
) -> None:
    test = connected(directories(tmp_path / "m", *names), policy)
    for _ in range(3):
        test.source.poll()
    warnings = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warning in warnings[0]


def test_an_update_empties_removed_streams_and_polls_the_rest(tmp_path: Path) -> None:
    base = directories(tmp_path / "m", "1", "2")
    target = RecordingTarget[str]()
    source = FileSystemSource([MonitoredServable("old", str(base))], poll_wait_seconds=0)
    source.connect(target)
    source.close()
    source = FileSystemSource([MonitoredServable("old", str(base))], poll_wait_seconds=0)
    source.connect(target)
    target.calls.clear()
    source.update([MonitoredServable("new", str(base), All())])
    assert ("old", []) in target.calls
    assert [version.id.version for version in target.last("new")] == [1, 2]
    source.close()


def test_without_polling_an_update_reports_why_there_is_no_version(tmp_path: Path) -> None:
    test = connected(directories(tmp_path / "m", "1"))
    test.source.update([MonitoredServable("new", str(tmp_path / "m"))])
    assert test.target.calls == [("m", [])]
    assert "polling is off" in test.source.problems()["new"].message


def test_the_period_is_measured_from_start_to_start(tmp_path: Path) -> None:
    base = directories(tmp_path / "m", "1")
    clock = FakeClock()
    polled = threading.Event()

    class SlowTarget(RecordingTarget[str]):
        def set_aspired_versions(self, name: str, versions: object) -> None:
            clock.now += 0.25
            if len(clock.waits) == 3:
                polled.set()

    source = FileSystemSource(
        [MonitoredServable("m", str(base))], poll_wait_seconds=1.0, clock=clock, wait=clock.wait
    )
    source.connect(SlowTarget())
    assert polled.wait(10)
    source.close(10)
    assert clock.waits[:3] == [0.75] * 3


def test_a_source_has_one_target() -> None:
    source = FileSystemSource(poll_wait_seconds=-1)
    source.connect(RecordingTarget[str]())
    with pytest.raises(RuntimeError, match="already connected"):
        source.connect(RecordingTarget[str]())


def test_an_unchanged_base_path_is_listed_periodically(tmp_path: Path) -> None:
    clock = FakeClock()
    base = directories(tmp_path / "m", "1/variables")
    target = RecordingTarget[str]()
    source = FileSystemSource(
        [MonitoredServable("m", str(base))],
        poll_wait_seconds=-1,
        clock=clock,
        wall_clock=lambda: time.time() + 3600,
    )
    source.connect(target)
    for _ in range(10):
        source.poll()
    assert len(target.calls) == 1
    (base / "1/variables/data").touch()  # the times of `m` and of `1` do not change
    clock.now += 5.0
    source.poll()
    before, after = (versions for _, versions in target.calls)
    assert before[0].fingerprint != after[0].fingerprint
    directories(base, "2")
    source.poll()
    assert [version.id.version for version in target.last("m")] == [2], "seen at once"
    source.update([MonitoredServable("m", str(base), Specific((1,)))])
    source.poll()
    assert [version.id.version for version in target.last("m")] == [1], "another configuration too"


def test_serving_versions_are_not_inspected_again(tmp_path: Path) -> None:
    clock = FakeClock()
    serving: set[ServableId] = set()
    base = directories(tmp_path / "m", "1")
    version = directories(tmp_path / "elsewhere", "variables")
    (base / "2").symlink_to(version)
    target = RecordingTarget[str]()
    source = FileSystemSource(
        [MonitoredServable("m", str(base))],
        poll_wait_seconds=-1,
        is_serving=serving.__contains__,
        clock=clock,
        wall_clock=lambda: time.time() + 3600,
    )

    def poll_later() -> list[list[int]]:
        """The lists of a poll after the trust has expired, and of one immediately after it."""
        before = len(target.calls)
        clock.now += 5.0
        source.poll()
        source.poll()
        return [[each.id.version for each in versions] for _, versions in target.calls[before:]]

    source.connect(target)
    assert poll_later() == [[2]]
    assert poll_later() == [[2]], "it does not serve yet: its content may be why"
    serving.add(ServableId("m", 2))
    (version / "variables/data").touch()
    assert poll_later() == []
    version.rename(tmp_path / "away")
    source.poll()
    assert [each.id.version for each in target.last("m")] == [1], "gone without a trace in m"
    (tmp_path / "away").rename(version)
    assert poll_later() == [[2]], "something else serves meanwhile"
    assert poll_later() == []
    serving.clear()
    assert poll_later() == [[2]], "it has failed, or is loaded anew"
    serving.add(ServableId("m", 2))
    source.update([MonitoredServable("m", str(base))])
    source.poll()
    assert len(target.calls) == 6, "what is emitted may go elsewhere after an update"
