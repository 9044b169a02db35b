#!/usr/bin/env python3
"""Select the sample of the recordings in the repository.

usage: scripts/sample_recordings.py DIRECTORY

DIRECTORY contains the recordings, `*.jsonl.gz`. The sample goes to tests/testdata/recordings. It has about one case in
thirty of each group and server configuration, and at least two. The selection uses a hash of the ids, and is the same
at each run.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections import defaultdict
from pathlib import Path

SAMPLE = Path(__file__).resolve().parents[1] / "tests/testdata/recordings"
ONE_IN = 30
AT_LEAST = 2
LONGEST = 16_384
"""The maximum size of a case in characters; a few large ones would dominate the sample."""


def rank(line: str) -> bytes:
    """A sort key that does not depend on the content of a case."""
    return hashlib.sha256(json.loads(line)["id"].encode()).digest()


def main() -> None:
    """Write the sample of each file."""
    SAMPLE.mkdir(parents=True, exist_ok=True)
    for recording in sorted(Path(sys.argv[1]).glob("*.jsonl.gz")):
        with gzip.open(recording, "rt", encoding="utf-8") as lines:
            recorded = [line for line in lines if len(line) <= LONGEST]
        groups: dict[tuple[str, str], list[str]] = defaultdict(list)
        for line in recorded:
            case = json.loads(line)
            groups[case["group"], case["profile"]].append(line)
        chosen: set[str] = set()
        for of_group in groups.values():
            count = max(AT_LEAST, len(of_group) // ONE_IN)
            chosen.update(sorted(of_group, key=rank)[:count])
        text = "".join(line for line in recorded if line in chosen)
        # Without a time and a name in the header, the file is reproducible.
        (SAMPLE / recording.name).write_bytes(gzip.compress(text.encode(), 9, mtime=0))
        print(f"{recording.name}: {len(chosen)} of {len(recorded)}")


if __name__ == "__main__":
    main()
