"""The models of the tests: exported once by TensorFlow, and variants made by copying."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEMO_EXPORT = ROOT / "examples/demo_models/export.py"
RUNTIME_EXPORT = ROOT / "tests/testdata/export_runtime_models.py"
BATCH_EXPORT = ROOT / "tests/testdata/export_batch_models.py"
WARM_UP_EXPORT = ROOT / "tests/testdata/export_warm_up_requests.py"


def tensorflow_version() -> str:
    """The version of the installed wheel, under either of its names."""
    for name in ("tensorflow-cpu", "tensorflow"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    raise LookupError("neither tensorflow nor tensorflow-cpu is installed")


def exported(script: Path, cache: Path) -> Path:
    """The output directory of an export script; it runs only if the script or TensorFlow has changed.

    Args:
        script: Takes the output directory as its argument.
        cache: Keeps results between test runs.
    """
    key = hashlib.sha256(script.read_bytes() + tensorflow_version().encode()).hexdigest()[:16]
    target = cache / f"{script.stem}-{key}"
    if not target.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=cache))
        subprocess.run([sys.executable, script, partial], check=True, capture_output=True)
        try:
            partial.rename(target)
        except OSError:  # another test run was faster
            shutil.rmtree(partial)
    return target


def add_version(base_path: Path, version: int, template: Path, *, offset: float) -> Path:
    """Add a version as a deployment should: written elsewhere, then renamed.

    Args:
        base_path: The model's directory.
        version: The number of the new version.
        template: A version directory of `half_plus_two`, whose offset is an asset.
        offset: The constant that the new version adds to x / 2.
    """
    aside = base_path / f"writing-{version}"
    shutil.copytree(template, aside)
    (aside / "assets/offset.txt").write_text(str(offset))
    target = base_path / str(version)
    os.rename(aside, target)
    return target


def add_corrupt_version(base_path: Path, version: int) -> Path:
    """Add a version whose saved_model.pb is invalid."""
    aside = base_path / f"writing-{version}"
    aside.mkdir(parents=True)
    (aside / "saved_model.pb").write_bytes(b"this is not a SavedModel\n")
    target = base_path / str(version)
    os.rename(aside, target)
    return target
