"""The notes in changelog.d can be assembled at any time: names, types and texts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTES = ROOT / "changelog.d"


def assembled(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "towncrier", "build", "--draft"),
            *("--version", "next", "--dir", str(folder)),
        ],
        capture_output=True,
        text=True,
    )


def test_each_note_is_in_the_draft() -> None:
    draft = assembled(ROOT)
    assert draft.returncode == 0, draft.stderr
    lines = [line for line in draft.stdout.splitlines() if line.startswith("- ")]
    assert len(lines) == len([file for file in NOTES.glob("*.md") if file.name != "README.md"])
    assert "- " not in lines  # no note is empty


@pytest.mark.parametrize("name", ["batching.improved.md", "batching.md", "added.md"])
def test_a_note_of_no_known_type_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "changelog.d").mkdir()
    for file in ("pyproject.toml", "CHANGELOG.md", "changelog.d/template.md.jinja"):
        (tmp_path / file).write_text((ROOT / file).read_text())
    (tmp_path / "changelog.d" / name).write_text("Batches are larger.\n")
    refused = assembled(tmp_path)
    assert refused.returncode != 0
    assert name in refused.stderr
