"""Version directories appear as a whole, under a free number."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from servable.errors import Code, SaveError
from servable.saving._writing import writing


def write(base_path: Path, version: int | None = None) -> Path:
    with writing(base_path, version) as writer:
        (writer.path / "inner").mkdir()
        (writer.path / "inner/file").write_text("content")
        assert writer.path.parent == base_path
        return writer.publish()


def test_the_first_version_is_1_and_the_next_ones_follow_the_highest(tmp_path: Path) -> None:
    base_path = tmp_path / "models/m"
    assert write(base_path) == base_path / "1"
    assert write(base_path, 7) == base_path / "7"
    assert write(base_path) == base_path / "8"
    assert sorted(os.listdir(base_path)) == ["1", "7", "8"]
    assert (base_path / "8/inner/file").read_text() == "content"


def test_names_that_are_no_versions_do_not_count(tmp_path: Path) -> None:
    for name in ("9x", "-9", ".saving-9", "009"):
        (tmp_path / name).mkdir()
    assert write(tmp_path) == tmp_path / "10"


@pytest.mark.parametrize("what", ["an empty directory", "a file", "a dangling link"])
def test_an_existing_version_is_never_replaced(what: str, tmp_path: Path) -> None:
    target = tmp_path / "3"
    if what == "a file":
        target.write_text("")
    elif what == "an empty directory":
        target.mkdir()
    else:
        target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(SaveError, match="3 exists, and versions are never replaced") as raised:
        write(tmp_path, 3)
    assert raised.value.code is Code.ALREADY_EXISTS
    assert os.listdir(tmp_path) == ["3"]


def test_of_two_writers_of_a_version_one_is_refused(tmp_path: Path) -> None:
    with writing(tmp_path, 3) as first, writing(tmp_path, 3) as second:
        for writer in (first, second):
            (writer.path / "file").write_text("")
        first.publish()
        with pytest.raises(SaveError, match="3 exists"):
            second.publish()
    assert os.listdir(tmp_path) == ["3"]


def test_writers_without_a_number_take_different_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        """Another process takes the number at the last moment."""
        monkeypatch.setattr(Path, "rename", real)
        target.mkdir()
        (target / "file").write_text("of another process")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    assert write(tmp_path) == tmp_path / "2"
    assert (tmp_path / "1/file").read_text() == "of another process"


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with writing(tmp_path / "m", None) as writer:
            (writer.path / "file").write_text("")
            raise RuntimeError("the conversion failed")

    with pytest.raises(RuntimeError, match="the conversion failed"):
        fail()
    assert os.listdir(tmp_path) == []


def test_other_users_may_read_a_version_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        assert write(tmp_path).stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(before)


@pytest.mark.parametrize("version", [-1, 1 << 63])
def test_numbers_that_no_server_knows_are_refused(version: int, tmp_path: Path) -> None:
    with pytest.raises(SaveError, match="want 0 to 9223372036854775807"):
        write(tmp_path / "m", version)
    assert not (tmp_path / "m").exists()


def test_a_url_is_refused() -> None:
    with pytest.raises(SaveError, match="got a URL, want a local directory"):
        write("s3://bucket/m")  # type: ignore[arg-type]


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("")
    with pytest.raises(SaveError, match="m cannot be written: File exists"):
        write(tmp_path / "m")
