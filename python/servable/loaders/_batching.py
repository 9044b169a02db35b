"""Sets up the batching of loaded versions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from servable._server.config.batching import (
    BatchingParameters,
    ModelBatching,
    PlatformBatching,
)
from servable.lifecycle._loader import Loader
from servable.lifecycle._loader import Servable as LoadedServable
from servable.loaders._wrapping import WrappingLoader

if TYPE_CHECKING:
    from servable._server.border.gateway import BatchThreads, Servable


def _start_threads(parameters: BatchingParameters) -> BatchThreads:
    # Only this needs the extension; everything else works, and is tested, without it.
    from servable._server.border.gateway import BatchThreads

    return BatchThreads(parameters)


class SharedBatchThreads:
    """The threads that run the batches of a platform or version, started when a load needs them.

    Safe to use from several threads.
    """

    def __init__(
        self,
        parameters: BatchingParameters,
        start: Callable[[BatchingParameters], BatchThreads] = _start_threads,
    ) -> None:
        """Set the number and the names of the threads; nothing is started yet."""
        self._parameters = parameters
        self._start = start
        self._lock = threading.Lock()
        self._threads: BatchThreads | None = None

    def get(self) -> BatchThreads:
        """The running threads.

        Raises:
            OSError: The system refuses to start them; retried at the next call.
        """
        with self._lock:
            if self._threads is None:
                self._threads = self._start(self._parameters)
            return self._threads


class BatchingLoader(WrappingLoader):
    """Loads a version and sets up its batching; see `servable.lifecycle.Loader` for the contract."""

    def __init__(
        self,
        loader: Loader,
        path: str,
        platform: PlatformBatching,
        model: ModelBatching,
        threads: SharedBatchThreads,
        *,
        reruns: bool = True,
    ) -> None:
        """Describe the load; nothing is read yet.

        Args:
            loader: Loads the version.
            path: The version directory, which may contain parameters.
            platform: The batching of its platform.
            model: The batching configuration of its model.
            threads: Runs the batches.
            reruns: Run requests of a failed batch again; only for runs without side effects.
        """
        super().__init__(loader)
        self._path = path
        self._platform = platform
        self._model = model
        self._threads = threads
        self._reruns = reruns

    def completion(self) -> Callable[[LoadedServable], None]:
        """Set up batching, or log why there is none.

        An invalid file of parameters fails the load before it begins.
        """
        batching = self._platform.of_version(self._path, self._model)
        parameters = batching.parameters
        if parameters is None:
            return lambda servable: cast("Servable", servable).leave_unbatched(batching.origin)
        if not self._reruns:
            parameters = replace(parameters, rerun_failed_batches=False)
        used, threads = parameters, self._threads.get()
        return lambda servable: cast("Servable", servable).batch(threads, used, batching.origin)
