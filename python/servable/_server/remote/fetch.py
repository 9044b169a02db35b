"""Fetches remote versions into the cache: bounded, resumable, verified, with progress in the log."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from servable._server.remote.cache import Claim, VersionCache
from servable._server.remote.errors import PERMANENT, disk_error
from servable._server.remote.manifest import Manifest, RemoteFile
from servable._server.remote.store import RemoteStore
from servable._server.remote.urls import scheme_of, shown
from servable.errors import CancelledError, Code, LoadError, ServableError

_log = logging.getLogger(__name__)

_FETCHES_PER_PLACE = 4
_FILES_AT_ONCE = 4
_PROGRESS_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """Options of fetches.

    Attributes:
        attempts: The number of attempts for a file without progress before the fetch fails.
        backoff_seconds: The pause after the first failure of a file. It doubles with each failure, up to
            `max_backoff_seconds`, and is multiplied by a random factor from 0.5 to 1.
        max_backoff_seconds: The longest pause.
        verify_checksums: Compare files with the checksums of the store.
    """

    attempts: int = 5
    backoff_seconds: float = 0.5
    max_backoff_seconds: float = 10.0
    verify_checksums: bool = True


@dataclass(frozen=True, slots=True)
class FetchedVersion:
    """A version on the local disk.

    Attributes:
        path: The directory of its files.
        claim: Protects it from eviction until it is released.
    """

    path: Path
    claim: Claim


class Fetcher:
    """Fetches versions into a cache. Safe to use from several threads.

    At most four versions are fetched from one place (a bucket, a host) at a time, so that a slow place does not block
    others.
    """

    def __init__(
        self, store: RemoteStore, cache: VersionCache, options: FetchOptions | None = None
    ) -> None:
        """Connect a store and a cache.

        Args:
            store: Where versions are read from.
            cache: Where they are stored.
            options: Retries and verification.
        """
        self.store = store
        self.cache = cache
        self._options = options or FetchOptions()
        self._lock = threading.Lock()
        self._slots: dict[tuple[str, str], threading.BoundedSemaphore] = {}

    def fetch(self, url: str, cancelled: threading.Event) -> FetchedVersion:
        """Bring the current content of a version to the local disk.

        Content in the cache is not fetched again; an interrupted fetch is resumed.

        Args:
            url: The version's directory.
            cancelled: Ends the fetch soon after it is set; fetched data is kept.

        Raises:
            CancelledError: The event was set.
            ServableError: The version could not be fetched.
        """
        with self._slot(url, cancelled):
            manifest = self.store.manifest(url)
            try:
                claim = self.cache.claim(manifest.digest)
            except OSError as raised:
                raise disk_error(raised, url) from raised
            try:
                path = self.cache.find(manifest) or self._fetch(manifest, cancelled)
            except OSError as raised:
                claim.release()
                raise disk_error(raised, url) from raised
            except BaseException:
                claim.release()
                raise
            return FetchedVersion(path, claim)

    def _fetch(self, manifest: Manifest, cancelled: threading.Event) -> Path:
        with self.cache.fetching(manifest, cancelled) as directory:
            if (path := self.cache.find(manifest)) is not None:
                return path  # another server has fetched it meanwhile
            progress = _Progress(manifest, self.cache.limit_bytes())
            try:
                self._fetch_files(manifest, directory, progress, cancelled)
            except OSError:
                # A full disk affects the whole machine, which matters more than a resumable fetch.
                self.cache.drop_partial(manifest.digest)
                raise
            if self.store.manifest(manifest.url).digest != manifest.digest:
                raise LoadError(
                    f"{shown(manifest.url)} has changed while it was fetched",
                    code=Code.ABORTED,
                )
            path = self.cache.publish(manifest)
            progress.finish()
            return path

    def _fetch_files(
        self,
        manifest: Manifest,
        directory: Path,
        progress: _Progress,
        cancelled: threading.Event,
    ) -> None:
        """Fetch all files, several at a time; the first failure cancels the others."""
        # The largest files first, so that no large one is left for the end.
        waiting = collections.deque(
            sorted(manifest.files, key=lambda file: file.size or 0, reverse=True)
        )
        given_up = threading.Event()
        failures: list[Exception] = []

        def work() -> None:
            while not given_up.is_set():
                try:
                    file = waiting.popleft()
                except IndexError:
                    return
                try:
                    _FileFetch(
                        self.store, self._options, manifest.url, file, directory / file.path
                    ).run(progress, lambda: given_up.is_set() or cancelled.is_set(), cancelled)
                except Exception as raised:
                    failures.append(raised)
                    given_up.set()

        # Daemons: a store that does not answer must not keep the process alive.
        threads = [
            threading.Thread(target=work, name="fetch-file", daemon=True)
            for _ in range(min(_FILES_AT_ONCE, len(waiting)))
        ]
        started = []
        for thread in threads:
            # If the system refuses further threads, the existing ones do the work.
            with contextlib.suppress(RuntimeError):
                thread.start()
                started.append(thread)
        if threads and not started:
            raise LoadError(
                "the system refuses threads to fetch files", code=Code.RESOURCE_EXHAUSTED
            )
        for thread in started:
            # A thread whose store hangs is abandoned; it writes nothing more.
            while thread.is_alive() and not cancelled.is_set():
                thread.join(0.2)
        _stop_if(cancelled.is_set())
        for failure in failures:
            if not isinstance(failure, CancelledError):
                raise failure
        if failures:
            raise failures[0]

    @contextlib.contextmanager
    def _slot(self, url: str, cancelled: threading.Event) -> Iterator[None]:
        place = (scheme_of(url), urlsplit(url).netloc)
        with self._lock:
            slots = self._slots.setdefault(place, threading.BoundedSemaphore(_FETCHES_PER_PLACE))
        while not slots.acquire(timeout=0.2):
            _stop_if(cancelled.is_set())
        try:
            yield
        finally:
            slots.release()


@dataclass(frozen=True, slots=True)
class _FileFetch:
    """The fetch of one file: resumed where an earlier attempt ended, until it is complete and verified."""

    store: RemoteStore
    options: FetchOptions
    url: str
    file: RemoteFile
    path: Path

    def run(
        self, progress: _Progress, is_over: Callable[[], bool], cancelled: threading.Event
    ) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        failures = 0
        while True:
            _stop_if(is_over())
            before = self._present_bytes()
            try:
                self._read_rest(before, failures > 0, progress, is_over)
                self._verify()
                return
            except ServableError as error:
                if error.code in PERMANENT or isinstance(error, CancelledError):
                    raise
                # An unstable connection succeeds eventually if each attempt makes some progress.
                failures = 1 if self._present_bytes() > before else failures + 1
                if failures >= self.options.attempts:
                    raise
                pause = self.options.backoff_seconds * 2 ** (failures - 1)
                pause = min(pause, self.options.max_backoff_seconds) * random.uniform(0.5, 1)
                _log.warning("%s; trying again in %.1f s", error, pause)
            cancelled.wait(pause)

    def _present_bytes(self) -> int:
        try:
            present = self.path.stat().st_size
        except FileNotFoundError:
            return 0
        return present if self.file.size is not None and present <= self.file.size else 0

    def _read_rest(
        self, offset: int, gently: bool, progress: _Progress, is_over: Callable[[], bool]
    ) -> None:
        with self.path.open("r+b" if offset else "wb") as out:
            progress.starts_at(self.file, offset)
            if self.file.size is None or offset < self.file.size:
                for start, block in self.store.read(self.url, self.file, offset, gently=gently):
                    _stop_if(is_over())
                    if start != out.tell():
                        out.seek(start)
                        out.truncate()
                        progress.starts_at(self.file, start)
                    out.write(block)
                    progress.add(self.file, len(block))
                    if self.file.size is not None and out.tell() > self.file.size:
                        break  # more data than was listed; it may be endless
            out.flush()
            os.fsync(out.fileno())

    def _verify(self) -> None:
        file, size = self.file, self.path.stat().st_size
        if file.size is not None and size != file.size:
            if size > file.size:
                self.path.unlink()
            raise self._damaged(f"got {size} bytes, want {file.size}")
        if not self.options.verify_checksums or file.checksum is None:
            return
        if file.checksum.fits(self.path) or not self.store.checksum_counts(self.url, file):
            return
        self.path.unlink()
        raise self._damaged(
            f"its {file.checksum.algorithm} is not {file.checksum.hex_digest}, "
            "the checksum of the store"
        )

    def _damaged(self, what: str) -> LoadError:
        return LoadError(
            f"{self.file.path} of {shown(self.url)} was not fetched intact: {what}",
            code=Code.DATA_LOSS,
            may_pass=True,
        )


class _Progress:
    """Logs the progress of a fetch, at its start and end and every few seconds."""

    def __init__(self, manifest: Manifest, limit_bytes: int) -> None:
        self._url = shown(manifest.url)
        self._limit = limit_bytes
        self._total = manifest.total_bytes
        self._lock = threading.Lock()
        self._done: dict[str, int] = {}
        self._received = 0
        self._started = self._logged = time.monotonic()
        _log.info("Fetching %s: %d files, %s", self._url, len(manifest.files), _size(self._total))

    def starts_at(self, file: RemoteFile, offset: int) -> None:
        with self._lock:
            self._done[file.path] = offset

    def add(self, file: RemoteFile, count: int) -> None:
        with self._lock:
            self._done[file.path] += count
            self._received += count
            done = sum(self._done.values())
            if done > self._limit:
                # The size was unknown, as stores may not report it.
                raise LoadError(
                    f"{self._url} has more than the {self._limit} bytes of the cache",
                    code=Code.RESOURCE_EXHAUSTED,
                )
            now = time.monotonic()
            if now - self._logged < _PROGRESS_SECONDS:
                return
            self._logged = now
            rate = self._received / (now - self._started)
        percent = 100 * done // max(self._total, 1)
        _log.info("Fetching %s: %d %%, %s/s", self._url, percent, _size(rate))

    def finish(self) -> None:
        seconds = time.monotonic() - self._started
        _log.info("Fetched %s: %s in %.1f s", self._url, _size(self._received), seconds)


def _stop_if(is_over: bool) -> None:
    if is_over:
        raise CancelledError("The version is no longer needed")


def _size(count: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
