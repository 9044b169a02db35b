"""Every accepted difference has one of few causes, and each cause is documented."""

from __future__ import annotations

import json
import re

from support import conformance
from support.conformance import Area, Cause, Difference
from support.models import ROOT

MOST_CAUSES = 15
LISTED = json.loads((conformance.COMPAT / "deviations.json").read_text())


def test_each_deliberate_cause_is_a_row_of_the_compatibility_table() -> None:
    table = (ROOT / "docs/compatibility.md").read_text()
    keys = set(re.findall(r"(?m)^\| `([a-z0-9-]+)` \|", table))
    assert set(LISTED) <= keys
    assert len(LISTED) <= MOST_CAUSES


def test_each_cause_has_its_reason_and_says_what_it_explains() -> None:
    for entry in LISTED.values():
        assert entry.keys() <= {"reason", "recordings", "cases", "requests"}
        assert entry["reason"]
        assert entry.keys() - {"reason"}


def cause(name: str, *recordings: str, cases: tuple[str, ...] = ()) -> Cause:
    patterns = tuple(re.compile(pattern) for pattern in recordings)
    return Cause(name, patterns, frozenset(cases))


def test_a_case_counts_once_and_not_as_listed_while_something_of_it_is_not() -> None:
    listed = cause("listed", r" g \| status: ", cases=("c",))
    area = Area("g", total=4)
    area.add(
        [
            Difference("a", "a g | status: 200 -> 400", ""),
            Difference("a", "a g | headers: x", ""),
            Difference("b", "b g | status: 200 -> 400", ""),
            Difference("b", "b g | status: 200 -> 404", ""),
            Difference("c", None, ""),
        ],
        [listed],
    )
    assert (area.equal, area.deviating, area.failed) == (1, 2, 1)
    assert "headers: x" not in conformance.shown(Area("h"))
    assert conformance.shown(area).startswith("1 of 4 differ in g\n    a: ")


def test_the_table_counts_what_differs_by_its_cause() -> None:
    area = Area("g", total=3)
    area.not_applicable["TensorFlow Serving crashed"] += 1
    area.add([Difference("a", None, "")], [cause("listed", cases=("a",))])
    assert (area.equal, area.deviating, area.failed) == (1, 1, 0)
    printed = "\n".join(conformance.table([area]))
    assert "deviating, by cause (docs/compatibility.md)\n     1  listed" in printed
    assert "not applicable\n     1  TensorFlow Serving crashed" in printed
