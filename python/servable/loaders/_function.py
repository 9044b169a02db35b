"""Loads servables that run as functions of NumPy arrays."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from servable.errors import Code, FailedPreconditionError, LoadError, ServableError
from servable.lifecycle._ids import ServableId
from servable.loaders._size import size_of_files
from servable.signature import Signature

if TYPE_CHECKING:
    from servable._server.border.gateway import Servable

CONCURRENT_RUNS = 8
"""How many runs of one servable may be active in the server's process.

One run at a time holds the interpreter lock. The others may wait for I/O, or compute in code that has released the
lock.
"""


class FunctionModel(Protocol):
    """An open model."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The model's signatures, by name."""

    @property
    def is_repeatable(self) -> bool:
        """Whether runs have no side effects."""

    def run(self, signature_name: str, inputs: Mapping[str, Any], deadline: float) -> Any:
        """Run one batch; called from several threads concurrently.

        Args:
            signature_name: Which signature.
            inputs: One read-only array for each of its inputs, of its dtype and shape.
            deadline: The caller's deadline, in seconds on `time.monotonic()`; may be infinite.

        Returns:
            All outputs of the signature, as arrays by name.

        Raises:
            ServableError: Sent to the client; any other exception becomes an INTERNAL error.
        """

    def close(self) -> None:
        """Release the model's resources; called once, after the last run."""


class FunctionLoader:
    """Loads one version directory; see `servable.lifecycle.Loader` for the contract."""

    def __init__(
        self,
        servable_id: ServableId,
        path: str,
        open_model: Callable[[Path], FunctionModel],
        *,
        concurrent_runs: int = CONCURRENT_RUNS,
        max_run_seconds: float = 0.0,
    ) -> None:
        """Describe the load; nothing is read or started yet.

        Args:
            servable_id: The version, for messages.
            path: The version directory.
            open_model: Opens the model in a directory, at each load.
            concurrent_runs: The maximum number of concurrent runs.
            max_run_seconds: How long a caller waits at most for a run that has begun; 0 for no limit.
        """
        self._name = f"{servable_id.name}/{servable_id.version}"
        self._path = Path(path)
        self._open_model = open_model
        self._concurrent_runs = concurrent_runs
        self._max_run_seconds = max_run_seconds
        self._model: FunctionModel | None = None
        self._servable: Servable | None = None

    def estimate_resources(self) -> int:
        """The size of all files of the version."""
        return size_of_files(self._path)

    def load(self) -> None:
        """Open the model.

        Raises:
            LoadError: NumPy is missing, or the signatures cannot be served.
            Exception: Raised by `open_model`.
        """
        from servable._server.border.gateway import Servable
        from servable.loaders._arrays import for_border

        model = self._open_model(self._path)
        try:
            self._servable = Servable.from_python(
                self._name,
                model.signatures,
                for_border(self._name, model.signatures, model.run),
                self._concurrent_runs,
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
        """Close the model."""
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


@contextlib.contextmanager
def loading(path: Path) -> Iterator[None]:
    """Turn exceptions of code of others, which opens a model, into a `LoadError`.

    Args:
        path: The file or directory, for the message.
    """
    try:
        yield
    except (ServableError, MemoryError):
        raise
    except Exception as error:
        raise LoadError(
            f"cannot load {path}: {type(error).__name__}: {error}",
            code=Code.FAILED_PRECONDITION,
            may_pass=False,
        ) from error
