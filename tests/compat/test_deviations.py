"""Every difference that the tests let pass is explained to the reader."""

from __future__ import annotations

import re
from typing import Any

from support.models import ROOT


def test_each_deviation_names_a_row_of_the_compatibility_table(deviations: dict[str, Any]) -> None:
    table = (ROOT / "docs/compatibility.md").read_text()
    keys = set(re.findall(r"(?m)^\| `([a-z0-9-]+)` \|", table))
    reasons = [entry["reason"] for entry in deviations["recordings"]]
    reasons += deviations["cases"].values()
    unknown = {reason for reason in reasons if reason.partition(":")[0] not in keys}
    assert not unknown


def test_each_deviation_says_which_recordings_it_is_for(deviations: dict[str, Any]) -> None:
    for entry in deviations["recordings"]:
        assert set(entry) <= {"match", "id", "reason"}
        re.compile(entry["match"])
