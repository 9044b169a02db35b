"""An outdated extension is noticed, and `make` builds a new one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import extension
from support import stand_in

COPY = "import shutil; shutil.copy({!r}, {!r})"
pytest_plugins = "pytester"


class Clone:
    """A small clone with an extension that is copied instead of compiled."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.package = root / "python/servable"
        for directory in (
            ".venv",
            "python/servable",
            "crates/server/src/rest",
            "crates/server/tests",
        ):
            (root / directory).mkdir(parents=True)
        for file in ("Cargo.toml", "Cargo.lock", "crates/server/Cargo.toml"):
            (root / file).touch()
        for file in ("lib.rs", "rest/frame.json"):
            (root / "crates/server/src" / file).write_text("first")

    def build(self, profile: str = "release") -> None:
        source = str(self.root / "crates/server/src/lib.rs")
        target = str(self.package / "_core.abi3.so")
        extension.build(profile, [sys.executable, "-c", COPY.format(source, target)])


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    made = Clone(tmp_path)
    monkeypatch.setattr(extension, "ROOT", made.root)
    monkeypatch.setattr(extension, "PACKAGE", made.package)
    monkeypatch.setattr(extension, "RECORD", made.root / ".venv/extension.json")
    return made


def test_an_extension_built_from_these_sources_is_usable(clone: Clone) -> None:
    assert "is not built" in str(extension.why_unusable())
    clone.build()
    assert extension.why_unusable() is None
    assert extension.why_unusable(of_profile="release") is None


@pytest.mark.parametrize(
    "file", ["Cargo.lock", "crates/server/src/lib.rs", "crates/server/Cargo.toml"]
)
def test_changed_sources_make_it_stale_until_they_are_changed_back(clone: Clone, file: str) -> None:
    clone.build()
    before = (clone.root / file).read_text()
    (clone.root / file).write_text(before + " ")
    problem = str(extension.why_unusable())
    assert "_core.abi3.so is stale" in problem
    assert "run `make dev`, or `make fast`" in problem
    (clone.root / file).write_text(before)
    assert extension.why_unusable() is None


def test_added_moved_and_deleted_sources_make_it_stale(clone: Clone) -> None:
    frame = clone.root / "crates/server/src/rest/frame.json"
    for change in (
        lambda: (frame.parent / "mod.rs").touch(),
        lambda: frame.rename(frame.with_name("other.json")),
        lambda: frame.with_name("other.json").unlink(),
    ):
        clone.build()
        assert extension.why_unusable() is None
        change()
        assert "is stale" in str(extension.why_unusable())


def test_tests_and_files_of_editors_do_not_make_it_stale(clone: Clone) -> None:
    clone.build()
    for file in ("src/.lib.rs.swp", "src/lib.rs~", "src/#lib.rs#", "tests/routes.rs"):
        (clone.root / "crates/server" / file).touch()
    assert extension.why_unusable() is None


def test_an_extension_built_by_another_tool_is_not_trusted(clone: Clone) -> None:
    clone.build()
    (clone.package / "_core.abi3.so").write_text("another")
    assert "was not built by `make`" in str(extension.why_unusable())


def test_a_build_that_fails_records_nothing(clone: Clone) -> None:
    clone.build()
    (clone.root / "crates/server/src/lib.rs").write_text("second")
    assert extension.main(["build", "release", sys.executable, "-c", "raise SystemExit(3)"]) == 3
    assert "is stale" in str(extension.why_unusable())


def test_figures_are_not_taken_from_a_fast_one(
    clone: Clone, capsys: pytest.CaptureFixture[str]
) -> None:
    clone.build("fast")
    assert extension.main(["check"]) == 0
    assert extension.main(["check", "--release"]) == 1
    assert "was built with the profile `fast`, want `release`; run `make dev`" in (
        capsys.readouterr().err
    )
    clone.build()
    assert extension.main(["check", "--release"]) == 0


def test_the_stand_in_has_every_name_of_the_extension() -> None:
    assert {"BatchQueue", "Servable", "Server", "crc32c"} <= set(stand_in.names())


def test_a_run_with_a_stale_extension_is_refused_while_tests_are_collected(
    pytester: pytest.Pytester,
) -> None:
    conftest = (extension.ROOT / "tests/conftest.py").read_text()
    assert conftest.count("import extension\n") == 1
    changed = 'import extension\n\nextension.digest_of_sources = lambda: "another"\n'
    paths = [str(extension.ROOT / name) for name in ("tests", "scripts")]
    pytester.makeini(f"[pytest]\npythonpath = {' '.join(paths)}\naddopts = --import-mode=importlib")
    (pytester.path / "tests/unit").mkdir(parents=True)
    (pytester.path / "tests/integration").mkdir()
    (pytester.path / "tests/conftest.py").write_text(
        conftest.replace("import extension\n", changed)
    )
    (pytester.path / "tests/unit/test_small.py").write_text(
        "def test_real(real_extension): assert False\ndef test_other(): pass\n"
    )
    (pytester.path / "tests/integration/test_large.py").write_text("import nonsense\n")
    refused = pytester.runpytest_subprocess("-q")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines("ERROR: *; run `make dev`, or `make fast`*")
    unit = pytester.runpytest_subprocess("-q", "-rs", "tests/unit")
    unit.assert_outcomes(passed=1, skipped=1)
    unit.stdout.fnmatch_lines("SKIPPED *; run `make dev`, or `make fast`*")
