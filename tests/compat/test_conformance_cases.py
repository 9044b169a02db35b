"""Sends the conformance cases, and compares the answers with the expected ones; one test an area."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support import conformance
from support.server_process import COMMAND

pytestmark = pytest.mark.timeout(600)

AREAS = (
    "float_format",
    "grpc",
    "json_error",
    "json_request_example",
    "json_request_predict",
    "json_response_classify",
    "json_response_predict",
    "json_response_regress",
    "prometheus",
    "rest_e2e",
    "rest_http",
    "rest_route",
    "status_map",
    "tensor_proto",
)


@pytest.fixture(scope="module")
def areas(conformance_dir: Path, causes: list[conformance.Cause]) -> dict[str, conformance.Area]:
    """Run every case, once."""
    cases = conformance_dir / "spec/conformance_cases.json"
    return {area.name: area for area in conformance.run_cases(cases, COMMAND, causes)}


def test_every_area_is_run(areas: dict[str, conformance.Area]) -> None:
    assert sorted(areas) == sorted(AREAS)


@pytest.mark.parametrize("name", AREAS)
def test_cases_pass(
    name: str,
    areas: dict[str, conformance.Area],
    check_area: Callable[[conformance.Area], None],
) -> None:
    check_area(areas[name])
