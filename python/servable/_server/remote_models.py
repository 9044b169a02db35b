"""The models with remote base paths: from a store to the manager.

Connects source, configuration, cache, fetcher and adapter. Opens no store and imports no driver before there is such a
model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from servable._server.config.models import ModelConfig
from servable._server.remote.cache import VersionCache
from servable._server.remote.fetch import Fetcher, FetchOptions
from servable._server.remote.options import RemoteOptions
from servable._server.remote.store import RemoteStore
from servable._server.remote.stores import Reach
from servable._server.remote.urls import is_remote
from servable.errors import ServableError
from servable.lifecycle._loader import Loader
from servable.lifecycle._source import AspiredVersion, Target
from servable.loaders._fetching import FetchingAdapter
from servable.platforms import Platform
from servable.platforms._registry import PlatformAdapter
from servable.sources._configured import ConfiguredVersions
from servable.sources._remote import RemoteServable, RemoteSource

T = TypeVar("T")


_LEAST_OWN_PERIOD = 1.0
"""The minimum interval of listings that a model may configure, in seconds."""


class RemoteModels:
    """Serves models from remote base paths. Safe to use from several threads."""

    def __init__(
        self,
        options: RemoteOptions,
        platforms: Mapping[str, Platform],
        report: Callable[[str, ServableError], None] = lambda name, problem: None,
    ) -> None:
        """Connect the parts; nothing runs yet.

        Args:
            options: Options of remote base paths.
            platforms: The platforms, which recognise and load versions, by name.
            report: Called with the reason why a model has no version.
        """
        self._options = options
        self._platforms = platforms
        self._store = store = RemoteStore(verifies=options.verify_checksums)
        cache = VersionCache(options.cache_directory, options.cache_max_bytes)
        fetch_options = FetchOptions(verify_checksums=options.verify_checksums)
        fetcher = Fetcher(store, cache, fetch_options)
        self._adapter = FetchingAdapter(fetcher, PlatformAdapter(platforms))
        self._configured = ConfiguredVersions()
        self._source = RemoteSource(store, report=report)
        self._elsewhere: frozenset[str] = frozenset()

    @property
    def reach(self) -> Reach | None:
        """The permitted stores; `None` for all."""
        return self._store.reach

    @reach.setter
    def reach(self, reach: Reach | None) -> None:
        self._store.reach = reach

    def connect(self, target: Target[Loader]) -> None:
        """Set the target of the loaders, and begin to list."""
        self._adapter.connect(_Unless(self._is_elsewhere, target))
        self._configured.connect(self._adapter)
        self._source.connect(self._configured)

    def update(self, models: Iterable[ModelConfig]) -> None:
        """Replace the configuration.

        Removed models are emptied. A model that moves to a local base path is not, so that its versions serve until
        those of the new base path do.
        """
        here, servables, elsewhere = [], [], set()
        for model in models:
            if is_remote(model.base_path):
                here.append(model)
                servables.append(
                    RemoteServable(
                        model.name,
                        model.base_path,
                        model.version_policy,
                        poll_wait_seconds=self._period(model),
                        keep_last_version=model.keep_last_version,
                        has_all_files=self._platforms[model.platform].has_all_files,
                    )
                )
            else:
                elsewhere.add(model.name)
        self._elsewhere = frozenset(elsewhere)
        self._configured.update(here)
        self._source.update(servables)

    def _period(self, model: ModelConfig) -> float:
        own = model.remote_poll_wait_seconds
        # A request must not be able to keep a store busy.
        return max(own, _LEAST_OWN_PERIOD) if own > 0 else own or self._options.poll_wait_seconds

    def without_remote(self, target: Target[str]) -> Target[str]:
        """The target for a source of local versions: a model that moves here is not emptied."""
        return _Unless(self._source.looks_after, target)

    def problems(self) -> Mapping[str, ServableError]:
        """The models without versions, with the reasons."""
        return self._source.problems()

    def close(self, timeout_seconds: float) -> None:
        """Stop listing and fetching; the next start resumes interrupted fetches."""
        self._adapter.close()
        self._source.close(timeout_seconds)

    def _is_elsewhere(self, name: str) -> bool:
        return name in self._elsewhere


class _Unless(Generic[T]):
    """A target that ignores some streams."""

    def __init__(self, is_excluded: Callable[[str], bool], target: Target[T]) -> None:
        self._is_excluded = is_excluded
        self._target = target

    def set_aspired_versions(self, name: str, versions: Sequence[AspiredVersion[T]]) -> None:
        if not self._is_excluded(name):
            self._target.set_aspired_versions(name, versions)
