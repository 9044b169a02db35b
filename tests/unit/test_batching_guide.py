"""The example of docs/guides/batching.md, as a reader would run it."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

from servable.batching import BatchingParameters

GUIDE = (Path(__file__).resolve().parents[2] / "docs/guides/batching.md").read_text()


def test_the_example_prints_what_the_guide_says() -> None:
    (program,) = re.findall(r"(?ms)^```python\n(.*?)^```$", GUIDE)
    (printed,) = re.findall(r"(?ms)^```text\n(.*?)^```$", GUIDE)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stdout, done.stderr) == (printed, "")


def test_the_table_has_every_parameter() -> None:
    names = re.findall(r"(?m)^\| `(\w+)` \|", GUIDE)
    assert names == [field.name for field in dataclasses.fields(BatchingParameters)]
