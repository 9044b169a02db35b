from __future__ import annotations

import os
import shutil
from collections.abc import Hashable
from pathlib import Path

from servable.sources.content import Fingerprints, look_at


class Clocks:
    """A clock that is set by hand; the wall clock runs on with it from the real time."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def fingerprints(self, *, changed: Path, ago: float) -> Fingerprints:
        start = changed.stat().st_ctime
        return Fingerprints(self.monotonic, lambda: start + ago + self.seconds)


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


def one(fingerprints: Fingerprints, path: Path) -> Hashable:
    (found,) = fingerprints.of("m", [str(path)])
    return found


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
    path, clocks = tmp_path / "1", Clocks()
    write_model(path, "half")
    complete(path)
    fingerprints = clocks.fingerprints(changed=path / "saved_model.pb", ago=60)
    seen = [one(fingerprints, path)]
    (path / "saved_model.pb").chmod(0)
    clocks.seconds = 11.0
    seen.append(one(fingerprints, path))
    path.chmod(0o711)
    seen.append(one(fingerprints, path))
    assert len(set(seen)) == 3


def test_a_look_at_a_huge_directory_is_still_quick(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / str(number)).touch()
    found = look_at(str(tmp_path)).fingerprint
    assert isinstance(found, tuple)
    assert len(found) < 100


def test_what_is_missing_has_no_fingerprint(tmp_path: Path) -> None:
    assert one(Fingerprints(), tmp_path / "missing") is None


def test_what_has_changed_of_late_is_looked_into_every_time(tmp_path: Path) -> None:
    path, clocks = tmp_path / "1", Clocks()
    write_model(path, "half")
    fingerprints = clocks.fingerprints(changed=path / "variables/variables.index", ago=0.5)
    before = one(fingerprints, path)
    complete(path)
    clocks.seconds = 1.0
    assert one(fingerprints, path) != before


def test_what_was_quiet_is_looked_into_now_and_then(tmp_path: Path) -> None:
    path, clocks = tmp_path / "1", Clocks()
    write_model(path, "half")
    fingerprints = clocks.fingerprints(changed=path / "variables/variables.index", ago=3600)
    before = one(fingerprints, path)
    complete(path)
    clocks.seconds = 9.0
    assert one(fingerprints, path) == before
    clocks.seconds = 10.0
    assert one(fingerprints, path) != before


def test_another_directory_in_the_same_place_is_seen_at_once(tmp_path: Path) -> None:
    path, clocks = tmp_path / "1", Clocks()
    write_model(path, "half")
    fingerprints = clocks.fingerprints(changed=path / "variables/variables.index", ago=3600)
    before = one(fingerprints, path)
    replace(path)
    assert one(fingerprints, path) != before


def test_a_forgotten_stream_is_looked_at_anew(tmp_path: Path) -> None:
    path, clocks = tmp_path / "1", Clocks()
    write_model(path, "half")
    fingerprints = clocks.fingerprints(changed=path / "variables/variables.index", ago=3600)
    before = one(fingerprints, path)
    complete(path)
    fingerprints.forget("m")
    assert one(fingerprints, path) != before
