"""The material of TensorFlow Serving, and the table of comparisons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support import conformance
from support.skipping import skip_comparison

_compared: dict[str, conformance.Area] = {}


@pytest.fixture(scope="session")
def conformance_dir() -> Path:
    """The directory of the material; without it the test is skipped, or fails in CI."""
    if not (conformance.DIRECTORY / "golden/replay.py").is_file():
        skip_comparison(
            f"no recordings of TensorFlow Serving in {conformance.DIRECTORY}; "
            "set SERVABLE_CONFORMANCE_DIR to where they are"
        )
    return conformance.DIRECTORY


@pytest.fixture(scope="session")
def causes() -> list[conformance.Cause]:
    """The known causes of differences."""
    return conformance.read_causes()


@pytest.fixture(scope="session")
def check_area() -> Callable[[conformance.Area], None]:
    """Add an area to the table, and fail if it has unlisted differences."""

    def check(area: conformance.Area) -> None:
        _compared[area.name] = area
        if area.unlisted:
            pytest.fail(conformance.shown(area), pytrace=False)

    return check


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the comparisons with TensorFlow Serving."""
    if _compared:
        terminalreporter.section("compared with TensorFlow Serving")
        for line in conformance.table(_compared.values()):
            terminalreporter.line(line)
