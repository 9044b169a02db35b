"""Reads estimators from the files of skops, pickle and joblib, in a worker process."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

from servable.errors import Code, LoadError
from servable.loaders._estimators import EstimatorModel
from servable.loaders._function import loading
from servable.loaders._wheels import require_package

SKOPS_FILE = "model.skops"
HARMLESS_TYPES = ("sklearn.utils._bunch.Bunch",)
"""Types of meta-estimators that skops does not know to be safe: a dictionary with attributes."""
PICKLE_FILES = ("model.pkl", "model.pickle", "model.joblib")


def require_skops() -> None:
    """Check early that estimators can be read.

    Raises:
        LoadError: skops is not installed.
    """
    require_package("skops", "skops", extra="skops")


def open_skops(directory: Path, *, is_trusted: bool) -> EstimatorModel:
    """Open `model.skops`.

    Args:
        directory: The version.
        is_trusted: Whether types that skops does not know may be read, which may run their code.

    Raises:
        LoadError: It cannot be read.
    """
    with loading(directory):
        return EstimatorModel(directory, partial(_read_skops, is_trusted=is_trusted))


def open_pickle(directory: Path) -> EstimatorModel:
    """Open a pickled estimator. This runs any code that its author chose.

    Raises:
        LoadError: It cannot be read.
    """
    with loading(directory):
        return EstimatorModel(directory, _read_pickle)


def _read_skops(directory: Path, *, is_trusted: bool) -> Any:
    require_skops()
    import skops.io

    file = directory / SKOPS_FILE
    types = skops.io.get_untrusted_types(file=file)
    unknown = [name for name in types if name not in HARMLESS_TYPES]
    if unknown and not is_trusted:
        raise LoadError(
            f"{file} contains types that skops does not know: {', '.join(unknown)}; "
            "`servable_options { trusted: true }` reads them, which may run their code",
            code=Code.PERMISSION_DENIED,
            may_pass=False,
        )
    return skops.io.load(file, trusted=types)


def _read_pickle(directory: Path) -> Any:
    file = next(directory / name for name in PICKLE_FILES if (directory / name).exists())
    try:
        import joblib
    except ImportError:
        with file.open("rb") as opened:
            return pickle.load(opened)
    return joblib.load(file)  # reads what either has written
