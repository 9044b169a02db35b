"""Loads Python servables, into this process or into worker processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from servable.lifecycle._ids import ServableId
from servable.loaders._function import CONCURRENT_RUNS, FunctionLoader, FunctionModel
from servable.loaders._python_model import load_python_model
from servable.loaders._python_workers import WorkerPool


@dataclass(frozen=True, slots=True)
class PythonOptions:
    """Options of a Python servable.

    Attributes:
        workers: The number of worker processes, each of which runs one batch at a time; 0 runs it in the server's
            process.
    """

    workers: int = 0


class PythonCallableLoader(FunctionLoader):
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
        super().__init__(
            servable_id,
            path,
            self._imported,
            concurrent_runs=options.workers or CONCURRENT_RUNS,
            max_run_seconds=max_run_seconds,
        )
        self._workers = options.workers

    def estimate_resources(self) -> int:
        """The size of all files of the version, once per process; the memory that the code allocates is unknown."""
        return super().estimate_resources() * max(self._workers, 1)

    def _imported(self, path: Path) -> FunctionModel:
        if self._workers:
            return WorkerPool(self._name, path, self._workers)
        return load_python_model(path)
