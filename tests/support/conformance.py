"""Compares a server with recordings and conformance cases of TensorFlow Serving, and reports the results.

A sample of the recordings is in `tests/testdata/recordings`. The complete recordings and the conformance cases are
outside of the repository: in the directory of SERVABLE_CONFORMANCE_DIR, or in `shared` beside the clone. It also
contains the program that sends the cases, `conformance/run_cases.py`. Each difference is traced to its cause here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.models import ROOT, exported
from support.recordings.cases import load_cases

DIRECTORY = Path(os.environ.get("SERVABLE_CONFORMANCE_DIR", ROOT.parent / "shared"))
COMPAT = ROOT / "tests/compat"
SAMPLE = ROOT / "tests/testdata/recordings"

# What a recording of TensorFlow Serving can contain in place of an answer. Any answer of a live server is then correct.
WITHOUT_ANSWER = {
    "crash": "TensorFlow Serving crashed",
    "hang": "TensorFlow Serving gave no answer",
    "undefined": "TensorFlow Serving answered with stray memory",
}


@dataclass(frozen=True)
class Cause:
    """A cause of differences from TensorFlow Serving.

    Attributes:
        name: The name of the cause; a key of docs/compatibility.md.
        recordings: Patterns for the titles of differences from recordings, `id group | level: what differs`.
        cases: Ids of conformance cases.
        requests: Patterns for a request and its difference, of recordings and of cases: `GET /v1/models/m?x | level:
            what differs`. For classes that the request determines.
    """

    name: str
    recordings: tuple[re.Pattern[str], ...]
    cases: frozenset[str] = frozenset()
    requests: tuple[re.Pattern[str], ...] = ()

    def explains(self, difference: Difference) -> bool:
        """Whether the difference has this cause."""
        asked = f"{difference.asked} | {difference.detail}"
        if difference.asked and any(pattern.search(asked) for pattern in self.requests):
            return True
        if difference.title is None:
            return difference.id in self.cases
        return any(pattern.search(difference.title) for pattern in self.recordings)


@dataclass(frozen=True)
class Difference:
    """One difference of an answer.

    Attributes:
        id: The id of the case or the recording.
        title: The text for the patterns of causes; None for a conformance case.
        detail: The expected and the received answer.
        asked: The method and the target of the request. For a case about values, their encoding.
    """

    id: str
    title: str | None
    detail: str
    asked: str = ""


@dataclass
class Area:
    """The results of one area of cases, or one group of recordings.

    Attributes:
        name: The name in the material.
        total: The number of cases.
        by_cause: The number of differences by listed cause; a case counts for the cause of its first difference.
        not_applicable: The number of cases that cannot be compared, by reason.
        unlisted: Differences without a cause.
    """

    name: str
    total: int = 0
    by_cause: Counter[Cause] = field(default_factory=Counter)
    not_applicable: Counter[str] = field(default_factory=Counter)
    unlisted: list[Difference] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """The number of differences without a listed cause."""
        return len({difference.id for difference in self.unlisted})

    @property
    def deviating(self) -> int:
        """The number of intended differences."""
        return self.by_cause.total()

    @property
    def equal(self) -> int:
        """The number of answers equal to TensorFlow Serving's."""
        return self.total - self.not_applicable.total() - self.failed - self.deviating

    def add(self, differences: Iterable[Difference], causes: Iterable[Cause]) -> None:
        """Trace differences to their causes."""
        found: dict[str, Cause] = {}
        for difference in differences:
            cause = next((cause for cause in causes if cause.explains(difference)), None)
            if cause is None:
                self.unlisted.append(difference)
            else:
                found.setdefault(difference.id, cause)
        for case in {difference.id for difference in self.unlisted}:
            found.pop(case, None)
        self.by_cause.update(found.values())


def read_causes(deviations: Path = COMPAT / "deviations.json") -> list[Cause]:
    """The causes of all intended differences."""
    listed: dict[str, dict[str, Any]] = json.loads(deviations.read_text())
    return [
        Cause(
            name,
            tuple(re.compile(pattern) for pattern in entry.get("recordings", ())),
            frozenset(entry.get("cases", ())),
            tuple(re.compile(pattern) for pattern in entry.get("requests", ())),
        )
        for name, entry in listed.items()
    ]


# ---- the two runners


def run_cases(
    file: Path, server: str, causes: Iterable[Cause], *, directory: Path = DIRECTORY
) -> list[Area]:
    """Send every case of a file to a server.

    Args:
        file: In the form of `spec/conformance_cases.json`.
        server: The command; flags are appended.
        causes: The known causes of differences.
        directory: The directory of the material.

    Raises:
        RuntimeError: The runner itself failed.
    """
    cases = {case["id"]: case for case in json.loads(file.read_text())["cases"]}
    area_of = {id_: case["area"] for id_, case in cases.items()}
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch) / "results.json"
        said = _run(
            *(directory / "conformance/run_cases.py", f"--server={server}", f"--cases={file}"),
            *(f"--testdata={directory / 'testdata'}", f"--results={results}", "-v"),
        )
        outcomes: Mapping[str, str] = json.loads(results.read_text())
    areas = {name: Area(name) for name in dict.fromkeys(area_of.values())}
    for case in outcomes:
        areas[area_of[case]].total += 1
    # FAILED id: what differs, its further lines indented; NOT CHECKABLE id: why.
    for line in re.finditer(r"(?m)^(FAILED|NOT CHECKABLE) (\S+): (.*(?:\n {6}.*)*)", said):
        area = areas[area_of[line[2]]]
        if line[1] == "FAILED":
            asked = _asked_by_case(cases[line[2]].get("request", {}))
            area.add([Difference(line[2], None, line[3], asked)], causes)
        else:
            area.not_applicable[line[3]] += 1
    return list(areas.values())


def replay(
    file: Path, server: str, causes: Iterable[Cause], *, models: Path, groups: str = "*"
) -> list[Area]:
    """Send every request of a recording to a server.

    Args:
        file: Cases as `support.recordings.cases` describes them.
        server: The command; flags are appended.
        causes: The known causes of differences.
        models: The result of `exported_models`.
        groups: A pattern for the groups to replay.

    Raises:
        RuntimeError: The replay itself failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "differences.jsonl"
        _run(
            *("-m", "support.recordings", file, f"--server={server}", f"--models={models}"),
            *(f"--group={groups}", f"--out={written}", f"--log={scratch}/server.log"),
        )
        replayed = [json.loads(line) for line in written.read_text().splitlines()]
    cases = load_cases(file)
    outcomes = {case["id"]: (case.get("response") or {}).get("outcome") for case in cases}
    asked = {case["id"]: asked_by(case) for case in cases}
    origin = file.name.partition(".")[0]
    areas: dict[str, Area] = {}
    for case in replayed:
        group = case["group"]
        # Several files have groups of the same name, such as `http` with other flags.
        name = group if origin[:4] == group[:4] else f"{group}, {origin}"
        area = areas.setdefault(name, Area(name))
        area.total += 1
        findings = (from_recording(case, found, asked[case["id"]]) for found in case["differences"])
        area.add(findings, causes)
        if not case["differences"] and outcomes[case["id"]] in WITHOUT_ANSWER:
            area.not_applicable[WITHOUT_ANSWER[outcomes[case["id"]]]] += 1
    return list(areas.values())


def asked_by(case: Mapping[str, Any]) -> str:
    """The method and the target of a recorded request of REST; empty for others."""
    if case["kind"] != "rest":
        return ""
    line = str(case.get("send") or case.get("send_bytes", "")).partition("\r\n")[0]
    return re.sub(r" HTTP/\S*$", "", line)


def _asked_by_case(request: Mapping[str, Any]) -> str:
    types = request.get("signature_inputs", {}).values()
    values = f"{' '.join(map(str, types))} {request.get('body', '')}" if types else ""
    target = request.get("path") or request.get("target") or ""
    return " ".join(filter(None, (str(request.get("method", "")), target, values)))


def from_recording(
    case: Mapping[str, str], difference: Mapping[str, str], asked: str = ""
) -> Difference:
    """A difference in the form of `support.recordings`, of a request in the form of `asked_by`."""
    what = f"{difference['level']}: {difference['signature']}"
    detail = f"expected {difference['expected']!r}\n      got      {difference['got']!r}"
    title = f"{case['id']} {case['group']} | {what}"
    return Difference(case["id"], title, f"{what}\n      {detail}", asked)


def _run(*arguments: object) -> str:
    """Run a Python program to its end; exit status 1 means that it found differences."""
    finished = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
    )
    if finished.returncode not in (0, 1):
        raise RuntimeError(finished.stderr)
    if finished.returncode and not finished.stdout:
        raise RuntimeError(finished.stderr)
    return finished.stdout


def exported_models(cache: Path) -> Path:
    """The models of the recordings, exported once."""
    return exported(ROOT / "tests/testdata/export_recorded_models.py", cache)


# ---- reports


def unused(causes: Iterable[Cause], areas: Iterable[Area]) -> list[str]:
    """The names of causes without a difference."""
    used = {cause for area in areas for cause in area.by_cause}
    return [cause.name for cause in causes if cause not in used]


def table(areas: Iterable[Area]) -> list[str]:
    """The lines of a table of the comparisons, and the reasons below it."""
    areas = list(areas)
    row = "{:26} {:>6} {:>6} {:>10} {:>15} {:>9}".format
    lines = [row("", "run", "equal", "deviating", "not applicable", "unlisted")]
    total = Area("total")
    for area in areas:
        total.total += area.total
        total.by_cause += area.by_cause
        total.not_applicable += area.not_applicable
        total.unlisted += area.unlisted
    for area in [*areas, total]:
        not_applicable = area.not_applicable.total()
        counts = (area.total, area.equal, area.deviating, not_applicable, area.failed)
        lines.append(row(area.name, *counts))
    by_name = {cause.name: n for cause, n in total.by_cause.items()}
    for heading, counted in (
        ("deviating, by cause (docs/compatibility.md)", by_name),
        ("not applicable", total.not_applicable),
    ):
        lines += ["", heading] if counted else []
        lines += [f"{n:6}  {name}" for name, n in sorted(counted.items(), key=lambda x: -x[1])]
    return lines


def shown(area: Area, limit: int = 10) -> str:
    """The differences of an area without a listed cause; one example of each kind."""
    by_title: dict[str, Difference] = {}
    for difference in area.unlisted:
        title = difference.title or difference.id
        by_title.setdefault(title.partition(" ")[2] or title, difference)
    examples = [f"{d.id}: {d.detail[:1500]}" for d in list(by_title.values())[:limit]]
    heading = f"{area.failed} of {area.total} differ in {area.name}"
    return "\n".join([heading, *(f"    {example}" for example in examples)])
