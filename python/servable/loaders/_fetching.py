"""Fetches a remote version before it is loaded.

The fetch belongs to the load of one version: it is retried, reported and cancelled like a load, and blocks no other
one. It runs before the version gets a load slot.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from servable._server.remote.cache import Claim
from servable._server.remote.fetch import FetchedVersion, Fetcher
from servable.errors import FailedPreconditionError
from servable.lifecycle._ids import ServableId
from servable.lifecycle._loader import Loader, Servable
from servable.lifecycle._source import AspiredVersion, SourceAdapter
from servable.sources._configured import VersionDirectory

_RAM_PER_FILE_BYTE = 1.2


class Interest:
    """A lease on a version: while it lasts, the fetch continues, and fetched files are kept for the load.

    Safe to use from several threads.
    """

    def __init__(self) -> None:
        """Begin the lease."""
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._fetched: FetchedVersion | None = None

    def keep(self, fetched: FetchedVersion) -> None:
        """Store a fetched version until it is taken, or until the lease ends."""
        with self._lock:
            previous, self._fetched = self._fetched, fetched
            if self.ended.is_set():
                previous, self._fetched = fetched, None
        if previous is not None:
            previous.claim.release()

    def take(self) -> FetchedVersion | None:
        """Take the stored version; its claim now belongs to the caller."""
        with self._lock:
            fetched, self._fetched = self._fetched, None
        return fetched

    def end(self) -> None:
        """End the lease: the fetch is cancelled, and the stored version is released."""
        self.ended.set()
        if (fetched := self.take()) is not None:
            fetched.claim.release()


class FetchingLoader:
    """Loads a remote version with the loader of its kind; see `servable.lifecycle.Loader`."""

    def __init__(
        self,
        url: str,
        fetcher: Fetcher,
        make_loader: Callable[[str], Loader],
        interest: Interest | None = None,
    ) -> None:
        """Describe the load; nothing is read yet.

        Args:
            url: The version's directory.
            fetcher: Fetches the version.
            make_loader: Makes the loader of a local version directory.
            interest: The lease; ends when the version is no longer aspired.
        """
        self._url = url
        self._fetcher = fetcher
        self._make_loader = make_loader
        self._interest = interest or Interest()
        self._claim: Claim | None = None
        self._loader: Loader | None = None

    def estimate_resources(self) -> int:
        """The size of all files of the version, plus a fifth; they may not be fetched yet."""
        return int(self._fetcher.store.manifest(self._url).total_bytes * _RAM_PER_FILE_BYTE)

    def prepare(self) -> None:
        """Fetch the current content of the version, unless it is in the cache."""
        self._interest.keep(self._fetcher.fetch(self._url, self._interest.ended))

    def load(self) -> None:
        """Load the fetched version; it stays in the cache until it is unloaded."""
        fetched = self._interest.take() or self._fetcher.fetch(self._url, self._interest.ended)
        try:
            loader = self._make_loader(str(fetched.path))
            loader.load()
        except BaseException:
            fetched.claim.release()
            raise
        self._claim, self._loader = fetched.claim, loader

    def unload(self) -> None:
        """Unload the version; its files may be evicted from now on."""
        loader, self._loader = self._loader, None
        claim, self._claim = self._claim, None
        try:
            if loader is not None:
                loader.unload()
        finally:
            if claim is not None:
                claim.release()

    @property
    def servable(self) -> Servable:
        """The loaded servable."""
        if self._loader is None:
            raise FailedPreconditionError(f"{self._url} is not loaded")
        return self._loader.servable


class FetchingAdapter(SourceAdapter[VersionDirectory, Loader]):
    """Turns remote version directories into loaders that fetch, then load.

    It tracks the aspired versions: fetches of versions that are no longer aspired are cancelled, and aspired versions
    are protected from eviction, loaded or not.
    """

    def __init__(self, fetcher: Fetcher, local: SourceAdapter[VersionDirectory, Loader]) -> None:
        """Combine a fetcher and the adapter of local versions.

        Args:
            fetcher: Fetches versions.
            local: Makes the loader of a local version directory.
        """
        super().__init__()
        self._fetcher = fetcher
        self._local = local
        self._lock = threading.Lock()
        self._interests: dict[str, dict[ServableId, Interest]] = {}
        self._claims: dict[str, dict[str, Claim]] = {}

    def adapt(self, servable_id: ServableId, item: VersionDirectory) -> FetchingLoader:
        """Make the loader of one remote version."""
        with self._lock:
            interests = self._interests.setdefault(servable_id.name, {})
            interest = interests.setdefault(servable_id, Interest())
        return FetchingLoader(
            item.path,
            self._fetcher,
            lambda path: self._local.adapt(servable_id, replace(item, path=path)),
            interest,
        )

    def set_aspired_versions(
        self, name: str, versions: Sequence[AspiredVersion[VersionDirectory]]
    ) -> None:
        """Update the leases, and pass the list on."""
        wanted = {version.id for version in versions}
        digests = {v.fingerprint for v in versions if isinstance(v.fingerprint, str)}
        with self._lock:
            interests = self._interests.setdefault(name, {})
            for servable_id in interests.keys() - wanted:
                interests.pop(servable_id).end()
            before = self._claims.get(name, {})
            # Begin new leases before old ones end: a version in both lists must stay protected.
            now = {
                digest: before.pop(digest)
                if digest in before
                else self._fetcher.cache.claim(digest)
                for digest in digests
            }
            for claim in before.values():
                claim.release()
            self._claims[name] = now
        super().set_aspired_versions(name, versions)

    def close(self) -> None:
        """Cancel all fetches; the files so far are kept for the next start."""
        with self._lock:
            for interests in self._interests.values():
                for interest in interests.values():
                    interest.end()
