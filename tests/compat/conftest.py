"""Runs the recordings and the conformance cases of the original server, and reports what they covered.

The material is large and lies outside the repository: in the directory named by
SERVABLE_CONFORMANCE_DIR, or in `shared` beside the clone. It brings its own runners, which take the
command of a server; here they are run as they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.conformance import Coverage
from support.models import ROOT

DEVIATIONS = Path(__file__).with_name("deviations.json")


_covered: list[Coverage] = []


@pytest.fixture(scope="session")
def conformance_dir() -> Path:
    """The directory of the material; skips the test where there is none."""
    directory = Path(os.environ.get("SERVABLE_CONFORMANCE_DIR", ROOT.parent / "shared"))
    if not (directory / "golden/replay.py").is_file():
        pytest.skip(
            f"no recordings of TensorFlow Serving in {directory}; "
            "set SERVABLE_CONFORMANCE_DIR to where they are"
        )
    return directory


@pytest.fixture(scope="session")
def deviations() -> dict[str, Any]:
    """The differences that are meant: `recordings` and `cases`, as the two runners read them."""
    loaded: dict[str, Any] = json.loads(DEVIATIONS.read_text())
    return loaded


@pytest.fixture(scope="session")
def report_coverage() -> Callable[[Coverage], None]:
    """Adds a line to the table."""
    return _covered.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was compared with the original."""
    if not _covered:
        return
    terminalreporter.section("compared with TensorFlow Serving")
    heading = ("", "cases", "equal", "explained", "not checkable")
    row = "{:28} {:>7} {:>7} {:>10} {:>14}"
    terminalreporter.line(row.format(*heading))
    for line in sorted(_covered, key=lambda covered: covered.name):
        terminalreporter.line(
            row.format(line.name, line.cases, line.equal, line.explained, line.not_checkable)
        )
