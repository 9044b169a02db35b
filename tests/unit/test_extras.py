"""Each extra of pyproject.toml contains the imports of its modules; test_installation.py installs the extras."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from support import import_extra
from support.models import ROOT

EXTRAS = metadata.metadata("servable").get_all("Provides-Extra") or []
pytestmark = pytest.mark.usefixtures("real_extension")


def declared_by(package: str, extras: set[str]) -> Iterator[str]:
    """The distributions that a package requires, directly or indirectly.

    Raises:
        PackageNotFoundError: One of them is not installed.
    """
    pending, seen = [(package, frozenset(extras))], set()
    while pending:
        name, wanted = pending.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        for line in metadata.requires(name) or []:
            required = Requirement(line)
            environments = [{"extra": extra} for extra in ("", *wanted)]
            if required.marker is None or any(map(required.marker.evaluate, environments)):
                metadata.version(required.name)
                yield required.name
                pending.append((required.name, frozenset(required.extras)))


def top_level_names(distributions: set[str]) -> list[str]:
    """The names that can be imported from them."""
    normal = {name.lower().replace("_", "-") for name in distributions}
    return [
        name
        for name, owners in metadata.packages_distributions().items()
        if any(owner.lower().replace("_", "-") in normal for owner in owners)
    ]


@pytest.mark.parametrize("extra", ["base", *EXTRAS])
def test_an_extra_declares_all_that_its_modules_import(extra: str) -> None:
    try:
        distributions = set(declared_by("servable", {extra}))
    except metadata.PackageNotFoundError as missing:
        pytest.skip(f"{missing.name} is not installed; test_installation.py installs it")
    program = [sys.executable, import_extra.__file__, extra, *top_level_names(distributions)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        ("client", "servable.client needs NumPy; install it with `pip install 'servable[client]'`"),
        (
            "python",
            "servable.batching needs NumPy; install it with `pip install 'servable[python]'`",
        ),
    ],
)
def test_without_its_extra_a_module_says_which_one_to_install(extra: str, complaint: str) -> None:
    program = [sys.executable, import_extra.__file__, extra, "google"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=100, check=False)
    assert f"ImportError: {complaint}" in done.stderr


def test_the_names_of_extras_are_those_of_pyproject() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    table = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    assert all(f"\n{extra} = [" in table for extra in EXTRAS)
    runtimes = {"tensorflow", "onnx", "tflite", "xgboost", "lightgbm"}
    frameworks = {"catboost", "jax", "keras", "mlflow", "skops", "sklearn", "torch"}
    assert {*import_extra.SCHEMES, "python", "client", *runtimes, *frameworks} == set(EXTRAS)
