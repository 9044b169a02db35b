"""Runs the conformance cases that concern what is built; one test an area."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.conformance import Coverage
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


@dataclass(frozen=True)
class Results:
    """What came of the cases: the outcome of each, by area, and what the runner said."""

    outcomes: dict[str, dict[str, str]]
    output: str


@pytest.fixture(scope="module")
def results(
    conformance_dir: Path, deviations: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Results:
    """Run every area at once."""
    directory = tmp_path_factory.mktemp("cases")
    cases = conformance_dir / "spec/conformance_cases.json"
    deviations_file = directory / "deviations.json"
    deviations_file.write_text(json.dumps(deviations["cases"]))
    finished = subprocess.run(
        [
            sys.executable,
            str(conformance_dir / "conformance/run_cases.py"),
            f"--server={COMMAND}",
            f"--cases={cases}",
            f"--only={','.join(AREAS)}",
            f"--testdata={conformance_dir / 'testdata'}",
            f"--deviations={deviations_file}",
            f"--results={directory / 'results.json'}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode in (0, 1), finished.stderr
    outcome_of = json.loads((directory / "results.json").read_text())
    outcomes: dict[str, dict[str, str]] = {area: {} for area in AREAS}
    for case in json.loads(cases.read_text())["cases"]:
        if case["id"] in outcome_of:
            outcomes[case["area"]][case["id"]] = outcome_of[case["id"]]
    return Results(outcomes, finished.stdout)


@pytest.mark.parametrize("area", AREAS)
def test_cases_pass(
    area: str, results: Results, report_coverage: Callable[[Coverage], None]
) -> None:
    outcomes = results.outcomes[area]
    count = Counter(outcomes.values())
    report_coverage(
        Coverage(
            f"cases: {area}",
            len(outcomes),
            count["passed"],
            count["deviation"],
            count["not checkable"],
        )
    )
    failed = [case for case, outcome in outcomes.items() if outcome == "failed"]
    lines = results.output.splitlines()
    shown = "\n".join(
        "\n".join(lines[i : i + 3])
        for i, line in enumerate(lines)
        if line.startswith("FAILED ") and line.split()[1].rstrip(":") in failed
    )
    if failed:
        pytest.fail(f"{len(failed)} of {len(outcomes)} cases fail:\n{shown[:8000]}", pytrace=False)
