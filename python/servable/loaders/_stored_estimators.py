"""Reads estimators from the files of skops, pickle and joblib, in a worker process."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from servable.errors import Code, LoadError, ServableError
from servable.lifecycle._ids import ServableId
from servable.loaders._estimators import EstimatorModel
from servable.loaders._function import FunctionLoader
from servable.loaders._worker_pool import WorkerLoader

SKOPS_FILE = "model.skops"
HARMLESS_TYPES = ("sklearn.utils._bunch.Bunch",)
"""Types of meta-estimators that skops does not know to be safe: a dictionary with attributes."""
PICKLE_FILES = ("model.pkl", "model.pickle", "model.joblib")


def open_skops(directory: Path, *, is_trusted: bool) -> EstimatorModel:
    """Open `model.skops`.

    Args:
        directory: The version.
        is_trusted: Whether types that skops does not know may be read, which may run their code.

    Raises:
        LoadError: It cannot be read.
    """
    return EstimatorModel(directory, _explained(partial(_read_skops, is_trusted=is_trusted)))


def open_pickle(directory: Path) -> EstimatorModel:
    """Open a pickled estimator. This runs any code that its author chose.

    Raises:
        LoadError: It cannot be read.
    """
    return EstimatorModel(directory, _explained(_read_pickle))


def in_workers(
    servable_id: ServableId,
    path: str,
    open_model: Callable[[Path], EstimatorModel],
    *,
    processes: int,
    max_run_seconds: float,
) -> WorkerLoader:
    """The loader of an estimator that is read and run in worker processes.

    Args:
        servable_id: The version.
        path: Its directory.
        open_model: One of the functions above.
        processes: The number of workers; one if it is 0.
        max_run_seconds: How long a caller waits at most for a run that has begun; 0 for no limit.
    """
    make_loader = partial(
        FunctionLoader, servable_id, path, open_model, max_run_seconds=max_run_seconds
    )
    name = f"{servable_id.name}/{servable_id.version}"
    estimate = make_loader().estimate_resources
    return WorkerLoader(name, make_loader, estimate, processes=max(processes, 1))


def _explained(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Turn all that reading raises into a `LoadError`."""

    def read_or_explain(directory: Path) -> Any:
        try:
            return read(directory)
        except (ServableError, MemoryError):
            raise
        except Exception as error:  # code of others
            raise LoadError(
                f"cannot load {directory}: {type(error).__name__}: {error}",
                code=Code.FAILED_PRECONDITION,
                may_pass=False,
            ) from error

    return read_or_explain


def _read_skops(directory: Path, *, is_trusted: bool) -> Any:
    try:
        import skops.io
    except ImportError as error:
        raise LoadError(
            f"skops cannot be imported ({error}); install it with `pip install 'servable[skops]'`",
            code=Code.FAILED_PRECONDITION,
        ) from error
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
