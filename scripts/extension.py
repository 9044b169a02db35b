#!/usr/bin/env python3
"""Record the sources of the extension's build, and check whether the extension is up to date.

usage: .venv/bin/python scripts/extension.py check [--release]      exits with 1 and the reason if it is outdated
       .venv/bin/python scripts/extension.py build PROFILE COMMAND...  runs the command and records its sources

`make` uses it. The tests refuse an outdated extension, and benchmarks one that is not optimised. It compares content,
not times: times change without the content (`git checkout`), and do not change when a file is deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "python/servable"
RECORD = ROOT / ".venv/extension.json"


def sources() -> Iterator[Path]:
    """All source files of the extension."""
    yield from (ROOT / "Cargo.toml", ROOT / "Cargo.lock")
    for crate in sorted((ROOT / "crates").iterdir()):
        for file in sorted([*crate.glob("*"), *crate.glob("src/**/*")]):
            # Skip temporary files of editors.
            if file.is_file() and not file.name.startswith((".", "#")) and file.name[-1] != "~":
                yield file


def digest_of_sources() -> str:
    """A digest of the names and contents of the sources."""
    digest = hashlib.sha256()
    for file in sources():
        content = file.read_bytes()
        digest.update(f"{file.relative_to(ROOT)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def library() -> Path | None:
    """The extension that Python would load."""
    return next(iter(sorted(PACKAGE.glob("_core*.so"))), None)


def why_unusable(*, of_profile: str | None = None) -> str | None:
    """Why the extension is outdated, and which command to run; None if it is up to date.

    Args:
        of_profile: The required Cargo profile; any by default.
    """
    found = library()
    if found is None:
        return f"{PACKAGE}: the extension is not built; {_advice(of_profile)}"
    shown = found.relative_to(ROOT)
    try:
        record = json.loads(RECORD.read_text())
    except FileNotFoundError:
        record = {}
    if record.get("library") != _digest_of(found):
        return f"{shown} was not built by `make`: nothing says from which sources; {_advice(of_profile)}"
    if record["sources"] != digest_of_sources():
        return (
            f"{shown} is stale: the sources below crates/ have changed since; {_advice(of_profile)}"
        )
    if of_profile not in (None, record["profile"]):
        return (
            f"{shown} was built with the profile `{record['profile']}`, want `{of_profile}`; "
            f"{_advice(of_profile)}"
        )
    return None


def build(profile: str, command: list[str]) -> None:
    """Run the build command of the extension, and record its sources.

    Raises:
        subprocess.CalledProcessError: The command failed.
    """
    # Before the build, because later changes may be missing in it.
    digest = digest_of_sources()
    subprocess.run(command, cwd=ROOT, check=True)
    built = library()
    if built is None:
        raise FileNotFoundError(f"{command[0]} left no extension in {PACKAGE}")
    record = {"sources": digest, "library": _digest_of(built), "profile": profile}
    # Renamed into place: copies of the environment may share the file.
    aside = RECORD.with_suffix(f".{os.getpid()}")
    aside.write_text(json.dumps(record, indent=2) + "\n")
    aside.replace(RECORD)


def _digest_of(file: Path) -> str:
    return hashlib.blake2b(file.read_bytes()).hexdigest()


def _advice(of_profile: str | None) -> str:
    builds = "run `make dev`"
    return builds if of_profile else f"{builds}, or `make fast`, which takes seconds"


def main(arguments: list[str]) -> int:
    """Run the command line."""
    match arguments:
        case ["check", *options] if options in ([], ["--release"]):
            problem = why_unusable(of_profile="release" if options else None)
            if problem is not None:
                print(problem, file=sys.stderr)
            return problem is not None
        case ["build", profile, *command] if command:
            try:
                build(profile, command)
            except subprocess.CalledProcessError as error:
                return error.returncode
            return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
