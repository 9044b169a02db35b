"""Where the material of TensorFlow Serving is, and the table of what was compared with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support import conformance
from support.skipping import skip_comparison

_compared: dict[str, conformance.Area] = {}


@pytest.fixture(scope="session")
def conformance_dir() -> Path:
    """The directory of the material; skips the test where there is none, or fails it in CI."""
    if not (conformance.DIRECTORY / "golden/replay.py").is_file():
        skip_comparison(
            f"no recordings of TensorFlow Serving in {conformance.DIRECTORY}; "
            "set SERVABLE_CONFORMANCE_DIR to where they are"
        )
    return conformance.DIRECTORY


@pytest.fixture(scope="session")
def causes() -> list[conformance.Cause]:
    """Why answers may differ."""
    return conformance.read_causes()


@pytest.fixture(scope="session")
def check_area() -> Callable[[conformance.Area], None]:
    """Adds an area to the table, and fails where something differs that is not listed."""

    def check(area: conformance.Area) -> None:
        _compared[area.name] = area
        if area.unlisted:
            pytest.fail(conformance.shown(area), pytrace=False)

    return check


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was compared with TensorFlow Serving."""
    if _compared:
        terminalreporter.section("compared with TensorFlow Serving")
        for line in conformance.table(_compared.values()):
            terminalreporter.line(line)
