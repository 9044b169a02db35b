from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from servable.sources._content import Stillness, look_at


class Clocks:
    """A manually set clock; the wall clock advances with it from the real time."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def stillness_of(self, path: Path, quiet_seconds: float) -> Stillness:
        """A memory of a directory that had been unchanged for this long."""
        look = look_at(str(path))
        now = look.changed_ns / 1e9 + quiet_seconds
        stillness = Stillness(self.monotonic, lambda: now + self.seconds)
        stillness.remember("m", [look.directory], look.changed_ns)
        return stillness


def write_model(path: Path, content: str) -> None:
    (path / "variables").mkdir(parents=True, exist_ok=True)
    (path / "saved_model.pb").write_text(content)
    (path / "variables/variables.index").write_text(content)


def complete(path: Path) -> None:
    with (path / "variables/variables.index").open("a") as file:
        file.write("and the rest")


def replace(path: Path) -> None:
    replacement = path.with_name("replacement")
    write_model(replacement, "good")
    shutil.rmtree(path)
    os.rename(replacement, path)


def test_the_fingerprint_changes_with_the_content_and_only_then(tmp_path: Path) -> None:
    path = tmp_path / "1"
    write_model(path, "half")
    seen = [look_at(str(path)).fingerprint]
    assert look_at(str(path)).fingerprint == seen[0]
    complete(path)
    seen.append(look_at(str(path)).fingerprint)
    (path / "assets").mkdir()
    seen.append(look_at(str(path)).fingerprint)
    replace(path)
    seen.append(look_at(str(path)).fingerprint)
    assert len(set(seen)) == 4


def test_the_fingerprint_changes_with_the_permissions(tmp_path: Path) -> None:
    path = tmp_path / "1"
    write_model(path, "half")
    seen = [look_at(str(path)).fingerprint]
    (path / "saved_model.pb").chmod(0)
    seen.append(look_at(str(path)).fingerprint)
    path.chmod(0o711)
    seen.append(look_at(str(path)).fingerprint)
    assert len(set(seen)) == 3


def test_a_look_at_a_huge_directory_is_still_quick(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / str(number)).touch()
    found = look_at(str(tmp_path)).fingerprint
    assert isinstance(found, tuple)
    assert len(found) < 100


def test_recently_changed_directories_are_trusted_briefly(tmp_path: Path) -> None:
    clocks = Clocks()
    write_model(tmp_path / "1", "good")
    stillness = clocks.stillness_of(tmp_path / "1", quiet_seconds=0.5)
    assert stillness.is_as_remembered("m")
    clocks.seconds = 0.5
    assert not stillness.is_as_remembered("m")


def test_unchanged_directories_are_trusted_for_seconds(tmp_path: Path) -> None:
    clocks = Clocks()
    write_model(tmp_path / "1", "good")
    stillness = clocks.stillness_of(tmp_path / "1", quiet_seconds=3600)
    clocks.seconds = 4.9
    assert stillness.is_as_remembered("m")
    clocks.seconds = 5.0
    assert not stillness.is_as_remembered("m")


@pytest.mark.parametrize(
    "change",
    [
        replace,
        shutil.rmtree,
        lambda path: (path / "new").touch(),
        lambda path: path.chmod(0o711),
    ],
)
def test_another_directory_entry_or_permission_is_seen_at_once(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    write_model(tmp_path / "1", "good")
    stillness = Clocks().stillness_of(tmp_path / "1", quiet_seconds=3600)
    assert stillness.is_as_remembered("m")
    change(tmp_path / "1")
    assert not stillness.is_as_remembered("m")


def test_a_forgotten_or_unknown_directory_is_not_trusted(tmp_path: Path) -> None:
    write_model(tmp_path / "1", "good")
    stillness = Clocks().stillness_of(tmp_path / "1", quiet_seconds=3600)
    assert not stillness.is_as_remembered("other")
    stillness.forget("m")
    assert not stillness.is_as_remembered("m")


def test_a_single_file_is_looked_at_too(tmp_path: Path) -> None:
    file = tmp_path / "iris.onnx"
    file.write_bytes(b"1")
    before = look_at(str(file))
    assert before == look_at(str(file))
    file.write_bytes(b"22")
    os.utime(file, ns=(1, 1))
    after = look_at(str(file))
    assert after.fingerprint != before.fingerprint
    assert after.is_sealed
    assert after.directory.path == str(file)
