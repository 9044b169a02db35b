"""Compares a server with TensorFlow Serving: every conformance case and every recording, or those of other files.

usage: run.py [--cases FILE] [--recordings FILE...] [--server COMMAND]        `make compat` runs it

Prints the differences, and a table of the comparisons. The exit status is 1 for differences that are not in
tests/compat/deviations.json, and 2 if nothing could be compared.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from support import conformance  # noqa: E402 - found through the line above
from support.server_process import COMMAND  # noqa: E402


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="run.py", description=str(__doc__).partition("\n\n")[0], add_help=True
    )
    parser.add_argument(
        "--cases",
        type=Path,
        metavar="FILE",
        help="conformance cases; without this and --recordings, everything there is",
    )
    parser.add_argument("--recordings", type=Path, nargs="+", metavar="FILE", default=[])
    parser.add_argument(
        "--server", default=COMMAND, metavar="COMMAND", help="flags are appended; ours by default"
    )
    parser.add_argument(
        "--models",
        type=Path,
        metavar="DIRECTORY",
        help="what tests/testdata/export_recorded_models.py has written; exported anew where it is not given",
    )
    return parser.parse_args()


def main() -> int:
    """Compare, and print the results."""
    options = arguments()
    cases, recordings = options.cases, options.recordings
    is_complete = not (cases or recordings)
    if is_complete:
        cases = conformance.DIRECTORY / "spec/conformance_cases.json"
        recordings = sorted((conformance.DIRECTORY / "golden").glob("*.jsonl.gz"))
    for file in [*([cases] if cases else []), *recordings]:
        if not file.is_file():
            print(f"run.py: no file {file}", file=sys.stderr)
            return 2
    try:
        return compare(options, cases, recordings, is_complete=is_complete)
    except RuntimeError as error:  # such as a server that does not start
        print(f"run.py: {str(error).strip()}", file=sys.stderr)
        return 2


def compare(
    options: argparse.Namespace, cases: Path | None, recordings: list[Path], *, is_complete: bool
) -> int:
    """Run the cases and the recordings, print the results, and return the exit status."""
    causes = conformance.read_causes()
    areas = []
    if cases:
        print(f"cases of {cases.name} ...", file=sys.stderr, flush=True)
        areas += conformance.run_cases(cases, options.server, causes)
    if recordings:
        models = options.models or conformance.exported_models(ROOT / ".pytest_cache/d/models")
    for file in recordings:
        print(f"recordings of {file.name} ...", file=sys.stderr, flush=True)
        areas += conformance.replay(file, options.server, causes, models=models)

    for area in areas:
        if area.unlisted:
            print(conformance.shown(area), end="\n\n")
    print("\n".join(conformance.table(areas)))
    if is_complete and (unused := conformance.unused(causes, areas)):
        print(f"\nlisted, but nothing differs: {', '.join(unused)}")
    return 1 if any(area.unlisted for area in areas) else 0


if __name__ == "__main__":
    sys.exit(main())
