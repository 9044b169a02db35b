"""Comments cite facts about TensorFlow Serving by file and section: each cited section exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPECIFICATION = ROOT / "docs/spec"
SOURCES = sorted(
    file
    for folder in ("crates", "python", "tests")
    for suffix in ("*.rs", "*.py", "*.pyi")
    for file in (ROOT / folder).rglob(suffix)
)

# `docs/spec/lifecycle.md §14 to §16`, also where a comment goes on in the next line.
CITATION = re.compile(r"docs/spec/(\w+\.md)`?((?:[\s/!#,]*(?:to|and)?\s*§[\d.]*\d)*)")
SECTION = re.compile(r"§([\d.]*\d)")
HEADING = re.compile(r"^#+ ([\d.]*\d)\.? ", re.MULTILINE)


def cited_sections() -> list[tuple[str, str, str | None]]:
    """The citing file, the cited file and the section; None for a citation of the whole file."""
    found = []
    for source in SOURCES:
        for file, sections in CITATION.findall(source.read_text()):
            numbers: list[str | None] = [*SECTION.findall(sections)]
            found += [(source.name, file, number) for number in numbers or [None]]
    return found


def test_citations_are_found() -> None:
    assert len(cited_sections()) > 50


@pytest.mark.parametrize("file", sorted({file for _, file, _ in cited_sections()}))
def test_cited_sections_exist(file: str) -> None:
    sections = set(HEADING.findall((SPECIFICATION / file).read_text()))
    missing = [
        f"{source} cites {file} §{number}"
        for source, cited, number in cited_sections()
        if cited == file and number is not None and number not in sections
    ]
    assert not missing
