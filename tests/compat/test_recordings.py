"""Replays recordings of the original server, byte for byte.

One test a group; the recordings of one file are replayed together, once, when the first of its groups is asked for.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support.conformance import Coverage
from support.models import exported
from support.server_process import COMMAND

pytestmark = pytest.mark.timeout(900)

# (recording, pattern for its groups): the groups.
REPLAYS = {
    ("json", "json.*"): (
        "json.b64",
        "json.deep",
        "json.grammar",
        "json.grammar.bytes",
        "json.number",
        "json.number.random",
        "json.printing",
        "json.string",
        "json.structure",
        "json.structure.models",
        "json.structure.multi",
        "json.structure.shapes",
        "json.wide",
    ),
    ("rest", "rest.*"): ("rest.examples", "rest.metadata", "rest.status", "rest.url"),
    ("http", "http"): ("http",),
    ("grpc", "grpc.*"): (
        "grpc.dtype",
        "grpc.examples",
        "grpc.examples.wire",
        "grpc.fit",
        "grpc.metadata",
        "grpc.multi",
        "grpc.mutated",
        "grpc.predict",
        "grpc.shape",
        "grpc.status",
        "grpc.tensor",
        "grpc.wire",
    ),
    ("profiles", "profile.[!b]*"): ("profile.method_check", "profile.tensor_content"),
    ("profiles", "http"): ("http",),
    ("scenarios", "scenario"): ("scenario",),
}
GROUPS = [(replay, group) for replay, groups in REPLAYS.items() for group in groups]


@dataclass
class Group:
    """What came of one group of recordings."""

    cases: int = 0
    differing: set[str] = field(default_factory=set)
    explained: set[str] = field(default_factory=set)
    unexplained: list[dict[str, Any]] = field(default_factory=list)


Replay = Callable[[tuple[str, str]], dict[str, Group]]


@pytest.fixture(scope="module")
def replay(
    conformance_dir: Path,
    deviations: dict[str, Any],
    model_cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Replay:
    """Replays a recording once and remembers what came of it."""
    golden = conformance_dir / "golden"
    directory = tmp_path_factory.mktemp("replay")
    deviations_file = directory / "deviations.json"
    deviations_file.write_text(json.dumps(deviations["recordings"]))
    known: dict[tuple[str, str], dict[str, Group]] = {}

    def run(key: tuple[str, str]) -> dict[str, Group]:
        if key in known:
            return known[key]
        recording, pattern = key
        differences = directory / f"{recording}-{len(known)}.jsonl"
        finished = subprocess.run(
            [
                sys.executable,
                str(golden / "replay.py"),
                str(golden / f"{recording}.jsonl.gz"),
                f"--server={COMMAND}",
                f"--models={exported(golden / 'export_models.py', model_cache)}",
                f"--group={pattern}",
                f"--deviations={deviations_file}",
                f"--json={differences}",
                f"--log={directory / recording}.log",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode in (0, 1), finished.stderr
        groups = read_groups(finished.stdout, differences)
        assert groups, f"{finished.stdout}\n{finished.stderr}"
        known[key] = groups
        return groups

    return run


def read_groups(summary: str, differences: Path) -> dict[str, Group]:
    """Join the table that the runner prints with the differences that it wrote."""
    groups = {
        match[1]: Group(cases=int(match[2]))
        for match in re.finditer(r"(?m)^(\S+)\s+(\d+)\s+\d+\s+\d+$", summary)
    }
    for line in differences.read_text().splitlines():
        difference = json.loads(line)
        group = groups[difference["group"]]
        group.differing.add(difference["id"])
        if difference["reason"] is None:
            group.unexplained.append(difference)
        else:
            group.explained.add(difference["id"])
    return groups


@pytest.mark.parametrize(("key", "name"), GROUPS, ids=[name for _, name in GROUPS])
def test_answers_are_those_of_the_original(
    key: tuple[str, str],
    name: str,
    replay: Replay,
    report_coverage: Callable[[Coverage], None],
) -> None:
    group = replay(key)[name]
    equal = group.cases - len(group.differing)
    report_coverage(Coverage(name, group.cases, equal, len(group.explained)))
    by_signature = {d["signature"]: d for d in reversed(group.unexplained)}
    shown = "\n".join(
        f"{d['id']} {d['level']}: {signature}\n    expected {d['expected']!r}\n    got      {d['got']!r}"
        for signature, d in list(by_signature.items())[:10]
    )
    count = len({d["id"] for d in group.unexplained})
    if group.unexplained:
        pytest.fail(f"{count} of {group.cases} cases differ:\n{shown}", pytrace=False)
