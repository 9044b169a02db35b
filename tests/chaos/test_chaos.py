"""A short chaos run of the stress suite: every answer of a server under constant change is correct."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).resolve().parents[2] / "benchmarks/stress/chaos.py"


def run_chaos(template: Path, *arguments: str) -> str:
    command = [sys.executable, str(CHAOS), f"--template={template}", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def answers(output: str, protocol: str, code: str) -> int:
    found = re.search(rf"^ *(\d+) × {protocol} {code}$", output, re.MULTILINE)
    return int(found[1]) if found else 0


def test_no_answer_is_wrong_while_models_change(half_plus_two_version: Path) -> None:
    output = run_chaos(half_plus_two_version, "--seconds=3", "--seed=4")
    for protocol in ("REST", "gRPC"):
        assert answers(output, protocol, "OK") > 0, output
        assert answers(output, protocol, "NOT_FOUND") > 0, output


@pytest.mark.chaos
def test_no_answer_is_wrong_in_a_longer_run(half_plus_two_version: Path) -> None:
    output = run_chaos(half_plus_two_version, "--seconds=10")
    for protocol in ("REST", "gRPC"):
        assert answers(output, protocol, "OK") > 100, output
