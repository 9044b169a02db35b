"""Replay recordings against a server, and write the differences of its answers.

usage: python -m support.recordings --server "COMMAND" --models DIRECTORY --out FILE [--group PATTERN] RECORDING

A separate process, because the stubs of TensorFlow Serving's API import TensorFlow. COMMAND starts the server; flags
are appended. DIRECTORY is the output of `export_models.py`. FILE gets one JSON object a case, in the order of the
replay: its id and group, and its differences.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import os
from pathlib import Path
from typing import Any

from support.recordings.cases import load_cases
from support.recordings.compare import differences
from support.recordings.server import replay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--server", required=True)
    parser.add_argument("--models", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--log", required=True, type=Path)
    parser.add_argument("--group", default="*")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    cases = [
        case
        for case in load_cases(arguments.recording)
        if fnmatch.fnmatchcase(case["group"], arguments.group)
    ]
    with arguments.out.open("w") as out:

        def report(case: dict[str, Any], outcome: Any) -> None:
            found = [dataclasses.asdict(each) for each in differences(case, outcome)]
            line = {"id": case["id"], "group": case["group"], "differences": found}
            out.write(json.dumps(line) + "\n")

        replay(arguments.server, arguments.models, cases, report, arguments.log)


if __name__ == "__main__":
    main()
