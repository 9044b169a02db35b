"""Loads Python servables, into this process or into worker processes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from servable.lifecycle._ids import ServableId
from servable.loaders._function import FunctionLoader
from servable.loaders._python_model import load_python_model
from servable.loaders._worker_pool import WorkerLoader

if TYPE_CHECKING:
    from servable._server.border.gateway import Servable


@dataclass(frozen=True, slots=True)
class PythonOptions:
    """Options of a Python servable.

    Attributes:
        workers: The number of worker processes, each of which runs one batch at a time; 0 runs it in the server's
            process.
    """

    workers: int = 0


class PythonCallableLoader:
    """Loads one version directory; see `servable.lifecycle.Loader` for the contract."""

    def __init__(
        self,
        servable_id: ServableId,
        path: str,
        options: PythonOptions,
        max_run_seconds: float = 0.0,
    ) -> None:
        """Describe the load; nothing is read or started yet.

        Args:
            servable_id: The version, for messages.
            path: The version directory; its format is that of `servable.loaders._python_model`.
            options: Where it is run.
            max_run_seconds: How long a caller waits at most for a call that has begun; 0 for no limit.
        """
        make_loader = partial(
            FunctionLoader, servable_id, path, load_python_model, max_run_seconds=max_run_seconds
        )
        here = make_loader()
        self._loader: FunctionLoader | WorkerLoader = here
        if options.workers:
            self._loader = WorkerLoader(
                f"{servable_id.name}/{servable_id.version}",
                make_loader,
                here.estimate_resources,
                processes=options.workers,
            )

    def estimate_resources(self) -> int:
        """The size of all files of the version, once per process; the memory that the code allocates is unknown."""
        return self._loader.estimate_resources()

    def load(self) -> None:
        """Import the code.

        Raises:
            LoadError: The code cannot be used, or a worker died.
        """
        self._loader.load()

    def unload(self) -> None:
        """Close the model, and end its workers."""
        self._loader.unload()

    @property
    def servable(self) -> Servable:
        """The loaded model."""
        return self._loader.servable
