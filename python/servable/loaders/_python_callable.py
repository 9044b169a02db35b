"""Loads servables that are written in Python, into this process or into processes of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from servable.errors import FailedPreconditionError, LoadError
from servable.lifecycle._ids import ServableId
from servable.lifecycle._loader import Loader
from servable.lifecycle._source import SourceAdapter
from servable.loaders._python_model import PythonModel, load_python_model
from servable.loaders._python_workers import WorkerPool
from servable.loaders._size import size_of_files

if TYPE_CHECKING:
    from servable._server.gateway import Servable

IN_PROCESS_THREADS = 8
"""How many calls of one servable may be under way in the server's own process.

One at a time holds the interpreter; the others may wait for something outside, or compute in code
that has let go of it.
"""


@dataclass(frozen=True, slots=True)
class PythonOptions:
    """How a Python servable is run.

    Attributes:
        workers: How many processes of its own it has, each of which runs one batch at a time; 0
            runs it in the server's process.
    """

    workers: int = 0


class PythonCallableLoader:
    """Loads one version directory; see `servable.lifecycle.Loader` for the contract."""

    def __init__(
        self,
        servable_id: ServableId,
        path: str,
        options: PythonOptions,
        admit: Callable[[str], str] = lambda path: path,
        max_run_seconds: float = 0.0,
    ) -> None:
        """Describe the load; nothing is read or started yet.

        Args:
            servable_id: The version, for messages.
            path: The version directory; `servable.loaders._python_model` says what it holds.
            options: How it is run.
            admit: Asked at each load: raises where the code in a directory must not be run, and
                returns the directory to use.
            max_run_seconds: How long a caller waits at most for a call that has begun; 0 for any
                time.
        """
        self._name = f"{servable_id.name}/{servable_id.version}"
        self._path = Path(path)
        self._options = options
        self._admit = admit
        self._max_run_seconds = max_run_seconds
        self._model: PythonModel | WorkerPool | None = None
        self._servable: Servable | None = None

    def estimate_resources(self) -> int:
        """The size of all files of the version, in each process: what code needs nobody knows."""
        return size_of_files(self._path) * max(self._options.workers, 1)

    def load(self) -> None:
        """Import the model, here or in workers.

        Raises:
            LoadError: NumPy is missing, or the model cannot be imported or made.
            ServableError: The code must not be run.
        """
        from servable._server.gateway import Servable
        from servable.loaders._arrays import for_border

        directory = Path(self._admit(str(self._path)))
        model: PythonModel | WorkerPool
        if self._options.workers:
            model = WorkerPool(self._name, directory, self._options.workers)
            threads = self._options.workers
        else:
            model = load_python_model(directory)
            threads = IN_PROCESS_THREADS
        try:
            run = for_border(self._name, model.signatures, model.run)
            self._servable = Servable.from_python(
                self._name,
                model.signatures,
                run,
                threads,
                self._max_run_seconds,
                model.is_repeatable,
            )
        except ValueError as error:
            model.close()
            raise LoadError(f"cannot load {self._path}: {error}", may_pass=False) from error
        except BaseException:
            model.close()
            raise
        self._model = model

    def unload(self) -> None:
        """Close the model, and end its workers."""
        servable, self._servable = self._servable, None
        model, self._model = self._model, None
        if servable is not None:
            servable.unload()
        if model is not None:
            model.close()

    @property
    def servable(self) -> Servable:
        """The loaded model."""
        if self._servable is None:
            raise FailedPreconditionError(f"{self._path} is not loaded")
        return self._servable


class PythonCallableAdapter(SourceAdapter[str, Loader]):
    """Turns paths of version directories into loaders of Python servables."""

    def __init__(
        self,
        options: Callable[[str], PythonOptions] = lambda name: PythonOptions(),
        admit: Callable[[str, str], str] = lambda name, path: path,
        max_run_seconds: float = 0.0,
    ) -> None:
        """Take what says how servables are run, and which.

        Args:
            options: The options of a stream, asked at each list of versions.
            admit: Asked at each load of a stream for the directory to use instead of one; raises
                where its code must not be run.
            max_run_seconds: The longest run; 0 for no limit (`--max_run_seconds`).
        """
        super().__init__()
        self._options = options
        self._admit = admit
        self._max_run_seconds = max_run_seconds

    def adapt(self, servable_id: ServableId, item: str) -> PythonCallableLoader:
        """Make the loader of one version directory."""
        name = servable_id.name
        return PythonCallableLoader(
            servable_id,
            item,
            self._options(name),
            lambda path: self._admit(name, path),
            self._max_run_seconds,
        )
