"""Has the requests for loaded versions joined into batches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from servable._server.config.batching import (
    BatchingParameters,
    ModelBatching,
    PlatformBatching,
    VersionBatching,
)
from servable.lifecycle._ids import ServableId
from servable.lifecycle._loader import Loader
from servable.lifecycle._loader import Servable as LoadedServable
from servable.lifecycle._source import SourceAdapter
from servable.loaders._wrapping import WrappingLoader

if TYPE_CHECKING:
    from servable._server.gateway import BatchThreads, Servable


def _start_threads(parameters: BatchingParameters) -> BatchThreads:
    # Only here is the extension needed; everything else works, and is tested, without it.
    from servable._server.gateway import BatchThreads

    return BatchThreads(parameters)


class SharedBatchThreads:
    """The threads that run the batches of one platform, started when its first version needs them.

    Safe to use from several threads.
    """

    def __init__(
        self,
        parameters: BatchingParameters,
        start: Callable[[BatchingParameters], BatchThreads] = _start_threads,
    ) -> None:
        """Say how many threads there will be, and what they are called; nothing is started yet."""
        self._parameters = parameters
        self._start = start
        self._lock = threading.Lock()
        self._threads: BatchThreads | None = None

    def get(self) -> BatchThreads:
        """The running threads.

        Raises:
            OSError: The system gives none; tried again at the next call.
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
        batching: Callable[[], VersionBatching],
        threads: SharedBatchThreads,
    ) -> None:
        """Describe the load; nothing is read yet.

        Args:
            loader: What loads the version.
            batching: Asked at each load for how its requests are joined, if they are.
            threads: What runs the batches.
        """
        super().__init__(loader)
        self._batching = batching
        self._threads = threads

    def completion(self) -> Callable[[LoadedServable], None]:
        """Set up batching, or say why there is none.

        A file of parameters that cannot be used fails the load before it begins.
        """
        batching = self._batching()
        parameters = batching.parameters
        if parameters is None:
            return lambda servable: cast("Servable", servable).leave_unbatched(batching.origin)
        threads = self._threads.get()
        return lambda servable: cast("Servable", servable).batch(
            threads, parameters, batching.origin
        )


class BatchingAdapter(SourceAdapter[str, Loader]):
    """Makes the loaders of another adapter set up batching."""

    def __init__(
        self,
        adapter: SourceAdapter[str, Loader],
        platform: PlatformBatching,
        model: Callable[[str], ModelBatching],
        *,
        own_threads: bool = False,
        reruns: bool = True,
    ) -> None:
        """Join an adapter and what is configured.

        Args:
            adapter: Makes loaders of version directories.
            platform: How the models of the platform are batched; they share threads.
            model: What the configuration of a model says; asked at each load.
            own_threads: Give each version threads of its own, where a run may wait for something
                that is not its own, such as code of the user: it must not hold up other models.
            reruns: Run requests again after their batch has failed, where that has no effects.
        """
        super().__init__()
        self._adapter = adapter
        self._platform = platform
        self._model = model
        self._reruns = reruns
        self._threads = None if own_threads else SharedBatchThreads(platform.parameters)

    def adapt(self, servable_id: ServableId, item: str) -> BatchingLoader:
        """Make the loader of one version directory."""
        return BatchingLoader(
            self._adapter.adapt(servable_id, item),
            lambda: self._of_version(item, servable_id.name),
            self._threads or SharedBatchThreads(self._platform.parameters),
        )

    def _of_version(self, path: str, model: str) -> VersionBatching:
        batching = self._platform.of_version(path, self._model(model))
        if batching.parameters is None or self._reruns:
            return batching
        return replace(
            batching, parameters=replace(batching.parameters, rerun_failed_batches=False)
        )
