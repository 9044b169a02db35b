"""Finds versions as numbered directories below remote base paths, and emits their URLs.

Every stream is listed on a separate thread, so a store that hangs affects one model only. A store that cannot be listed
does not change the aspired versions. Most stores do not know empty directories: a base path from which everything was
deleted is missing, and changes nothing either.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from servable._server.remote.manifest import Manifest
from servable._server.remote.store import RemoteStore
from servable._server.remote.urls import shown
from servable.errors import Code, LoadError, NotFoundError, ServableError
from servable.lifecycle._ids import ServableId
from servable.lifecycle._source import AspiredVersion, Target
from servable.sources._filesystem import BARE_VERSION, parse_version
from servable.sources._model_files import explain_file, explain_files, has_known_suffix
from servable.sources._uploads import SETTLE_SECONDS, HasAllFiles, Uploads
from servable.sources._version_policy import All, Latest, Specific, VersionPolicy

_log = logging.getLogger(__name__)

_SLOW_LISTING_SECONDS = 30.0
"""A first listing that takes longer counts as a problem until it ends; a reload does not wait longer for it."""
_FIRST_RETRY_SECONDS = 1.0
_LAST_RETRY_SECONDS = 60.0
_BARE = ""
"""In place of a directory's name: the base path itself."""


@dataclass(frozen=True, slots=True)
class RemoteServable:
    """A stream to monitor.

    Attributes:
        name: The stream.
        base_url: The parent of the version directories, such as `s3://bucket/models/m`.
        version_policy: Which versions are aspired.
        poll_wait_seconds: From the end of one listing to the start of the next. With 0 the stream is listed until one
            listing succeeds. With a negative value it is never listed.
        keep_last_version: Keep the aspired set when no version is left.
        has_all_files: Tells complete versions from incomplete ones by the names of their files, and by their content. A
            base path that is complete itself, and has no subdirectory with a number for a name, is version 1.
    """

    name: str
    base_url: str
    version_policy: VersionPolicy = field(default_factory=Latest)
    poll_wait_seconds: float = 60.0
    keep_last_version: bool = False
    has_all_files: HasAllFiles | None = None


class RemoteSource:
    """Lists remote base paths and emits the URLs of versions. Safe to use from several threads."""

    def __init__(
        self,
        store: RemoteStore,
        servables: Iterable[RemoteServable] = (),
        *,
        report: Callable[[str, ServableError], None] = lambda name, problem: None,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        """Prepare a source; nothing is listed before it is connected.

        Args:
            store: Lists the base paths.
            servables: The streams to monitor.
            report: Called after a listing with the reason why a stream has no version.
            wait: How to pause between listings.
        """
        self._store = store
        self._wait = wait
        self._report = report
        self._lock = threading.Lock()
        self._started_seconds = time.time()
        self._watches = {s.name: self._watch(s) for s in servables}
        self._target: Target[str] | None = None

    def connect(self, target: Target[str]) -> None:
        """Set the target of the URLs and begin to list."""
        with self._lock:
            if self._target is not None:
                raise RuntimeError("a source has one target, and it is already connected")
            self._target = target
            for watch in self._watches.values():
                watch.start()

    def update(self, servables: Iterable[RemoteServable]) -> None:
        """Replace the set of monitored streams; does not wait for stores.

        Removed streams are emptied before this returns.
        """
        named = {servable.name: servable for servable in servables}
        with self._lock:
            before: dict[str, _Watch] = {}
            for name in [*self._watches]:
                if self._watches[name].servable != named.get(name):
                    before[name] = self._watches.pop(name)
                    before[name].stop()
                    if name not in named and self._target is not None:
                        self._target.set_aspired_versions(name, [])
            for name in named.keys() - self._watches.keys():
                watch = self._watch(named[name], before.get(name))
                self._watches[name] = watch
                if self._target is not None:
                    watch.start()

    def looks_after(self, name: str) -> bool:
        """Whether a stream is monitored."""
        return name in self._watches

    def problems(self) -> Mapping[str, ServableError]:
        """The streams without a version, with the reasons."""
        with self._lock:
            watches = list(self._watches.values())
        return {w.servable.name: problem for w in watches if (problem := w.problem) is not None}

    def close(self, timeout_seconds: float | None = None) -> None:
        """Stop listing; emitted versions stay aspired.

        Args:
            timeout_seconds: How long to wait for running listings; `None` waits without limit.
        """
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        with self._lock:
            watches = list(self._watches.values())
        for watch in watches:
            watch.stop()
        for watch in watches:
            watch.join(None if end is None else max(0.0, end - time.monotonic()))

    def _watch(self, servable: RemoteServable, before: _Watch | None = None) -> _Watch:
        uploads = Uploads(started_seconds=self._started_seconds)
        if before is not None and before.servable.base_url == servable.base_url:
            uploads = before.uploads  # valid for any version policy of the base path
        return _Watch(servable, uploads, self._store, self._emit, self._report, self._wait)

    def _emit(self, watch: _Watch, versions: list[AspiredVersion[str]]) -> None:
        with self._lock:
            # The stream was removed while this listing ran: its result is outdated.
            if self._target is not None and self._watches.get(watch.servable.name) is watch:
                self._target.set_aspired_versions(watch.servable.name, versions)


class _Watch:
    """Lists one stream periodically."""

    def __init__(
        self,
        servable: RemoteServable,
        uploads: Uploads,
        store: RemoteStore,
        emit: Callable[[_Watch, list[AspiredVersion[str]]], None],
        report: Callable[[str, ServableError], None],
        wait: Callable[[threading.Event, float], object],
    ) -> None:
        self.servable = servable
        self.uploads = uploads
        self._store = store
        self._emit = emit
        self._report = report
        self._wait = wait
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._started: float | None = None
        self._has_listed = False
        self._is_failing = False
        self._problem: ServableError | None = None
        self._digests: dict[str, str] = {}
        self._uploading: list[str] = []
        # The versions without files in the last listing, and in the one before it.
        self._empty: set[str] = set()
        self._empty_before: set[str] = set()
        self._logged: tuple[str, ...] = ()
        # The problem with the base path, if one is known.
        self._explanation = ""
        if servable.poll_wait_seconds < 0:
            self._problem = NotFoundError(
                f"No version of servable {servable.name} was searched for, because polling is off"
            )

    @property
    def problem(self) -> ServableError | None:
        if self._problem is None and not self._has_listed and self._started is not None:
            seconds = time.monotonic() - self._started
            if seconds > _SLOW_LISTING_SECONDS:
                return LoadError(
                    f"{shown(self.servable.base_url)} has not been listed within {seconds:.0f} s",
                    code=Code.UNAVAILABLE,
                )
        return self._problem

    def start(self) -> None:
        if self.servable.poll_wait_seconds >= 0:
            self._started = time.monotonic()
            self._thread = threading.Thread(
                target=self._run, name=f"remote-source {self.servable.name}", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def join(self, timeout_seconds: float | None) -> None:
        if self._thread is not None:
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        period = self.servable.poll_wait_seconds
        retry = _FIRST_RETRY_SECONDS
        while not self._stop.is_set():
            has_listed = self._list()
            if self._problem is not None and not self._stop.is_set():
                self._report(self.servable.name, self._problem)
            if has_listed and self._uploading:
                pause = min(SETTLE_SECONDS, period or SETTLE_SECONDS)
            elif has_listed:
                if period == 0:
                    return
                pause, retry = period, _FIRST_RETRY_SECONDS
            else:
                pause = min(retry, period or _LAST_RETRY_SECONDS)
                retry = min(2 * retry, _LAST_RETRY_SECONDS)
            self._wait(self._stop, pause)

    def _list(self) -> bool:
        """List once.

        Returns:
            Whether the base path could be listed.
        """
        base_url, name = self.servable.base_url, self.servable.name
        warnings: list[str] = []
        self._empty_before, self._empty = self._empty, set()
        try:
            names = self._names(warnings)
            self._forget_all_but({self._url(directory) for directory in names})
            versions = self._versions(names, warnings)
        except ServableError as error:
            self._failed(error, f"Servable {name} cannot be listed: {error}")
            return False
        except Exception as raised:  # a driver's border: the thread must survive it
            problem = LoadError(f"{type(raised).__name__}: {raised}", code=Code.INTERNAL)
            self._failed(problem, f"Listing {shown(base_url)} failed: {problem}")
            return False
        if self._is_failing:
            self._is_failing = False
            _log.info("Base path %s for servable %s can be listed now", shown(base_url), name)
        self._has_listed = True
        self._problem = None
        if self._uploading and not versions:
            self._problem = LoadError(
                f"Version {self._uploading[0] or BARE_VERSION} at {shown(base_url)} is still being uploaded",
                code=Code.UNAVAILABLE,
            )
        elif not versions:
            text = (
                f"Unable to find a numerical version path for servable {name} at: {shown(base_url)}"
            )
            explanation = self._explanation
            self._problem = NotFoundError(f"{text}; {explanation}" if explanation else text)
        self._log(logging.WARNING, warnings)
        # A policy that selects no version does not keep the last one.
        wants_none = self.servable.version_policy == Specific(())
        keeps = self.servable.keep_last_version or self._uploading
        if versions or wants_none or not keeps:
            self._emit(self, versions)
        return True

    def _names(self, warnings: list[str]) -> list[str]:
        """The names of the directories below the base path; an empty name stands for the base path itself.

        Raises:
            ServableError: It cannot be listed.
        """
        base_url = self.servable.base_url
        # A web server may answer the request for a file with anything.
        is_named_so = has_known_suffix(urlsplit(base_url).path)
        self._explanation = explain_file(shown(base_url)) if is_named_so else ""
        children = self._store.children(base_url)
        if children.is_file:
            self._explanation = explain_file(shown(base_url))
        elif not any(parse_version(name) is not None for name in children.directories):
            if children.files and self._is_bare():
                warnings.append(
                    f"The base path {shown(base_url)} of servable {self.servable.name} holds a model "
                    f"itself, and no version directory: it is served as version {BARE_VERSION}"
                )
                return [_BARE]
            self._explanation = explain_files(shown(base_url), children.files)
        return children.directories

    def _is_bare(self) -> bool:
        """Whether the base path itself holds a version."""
        if self.servable.has_all_files is None:
            return False
        manifest = self._store.manifest(self.servable.base_url)
        return self.servable.has_all_files([file.path for file in manifest.files], None)

    def _failed(self, problem: ServableError, message: str) -> None:
        if self._explanation:
            problem = LoadError(f"{problem.message}; {self._explanation}", code=problem.code)
            message += f"; {self._explanation}"
        self._problem = problem
        self._is_failing = True
        self._log(logging.ERROR, [message])

    def _forget_all_but(self, urls: set[str]) -> None:
        self.uploads.keep(urls)
        self._digests = {url: self._digests[url] for url in self._digests.keys() & urls}

    def _versions(self, names: Iterable[str], warnings: list[str]) -> list[AspiredVersion[str]]:
        """The complete versions that the policy selects."""
        complete: dict[str, AspiredVersion[str]] = {}
        self._uploading = []
        while True:
            left = [
                name for name in names if name not in self._uploading and not self._is_gone(name)
            ]
            notes: list[str] = []
            found = _wanted(self.servable, left, notes)
            for number, directory in found:
                if directory not in complete:
                    version = self._version(number, directory)
                    if version is None:
                        break
                    complete[directory] = version
            else:
                # The others may be missing because their upload has not begun.
                warnings += notes if not self._uploading else []
                for directory in self._uploading:
                    warnings.append(
                        f"{shown(self._url(directory))} is held back while it is being uploaded"
                    )
                return [complete[directory] for _, directory in found]

    def _version(self, number: int, directory: str) -> AspiredVersion[str] | None:
        """One version; `None` if it is being uploaded, or is gone."""
        servable_id, url = ServableId(self.servable.name, number), self._url(directory)
        try:
            manifest = self._store.manifest(url)
        except ServableError as error:
            if error.code is Code.NOT_FOUND:
                self._empty.add(directory)
                if self._is_gone(directory):
                    self._digests.pop(url, None)
                    return None
            if url not in self._digests:
                return AspiredVersion(servable_id, error)
            # A known version: if it is loaded or being fetched, a failed listing does not affect it.
        else:
            if not self.uploads.is_complete(manifest, lambda: self._has_all_files(manifest)):
                self._uploading.append(directory)
                return None
            self._digests[url] = manifest.digest
        return AspiredVersion(servable_id, url, self._digests[url])

    def _has_all_files(self, manifest: Manifest) -> bool:
        files = {file.path: file for file in manifest.files}
        has_all_files = self.servable.has_all_files
        return has_all_files is None or has_all_files(
            files.keys(), lambda path: self._store.open(manifest.url, files[path])
        )

    def _is_gone(self, directory: str) -> bool:
        """Whether a version has no files, though stores may still list its directory.

        A known version must be seen without files twice: some drivers report the same for a store that fails.
        """
        is_known = self._url(directory) in self._digests
        return directory in self._empty and (not is_known or directory in self._empty_before)

    def _url(self, directory: str) -> str:
        base_url = self.servable.base_url.rstrip("/")
        return base_url if directory == _BARE else f"{base_url}/{directory}"

    def _log(self, level: int, messages: list[str]) -> None:
        if self._logged != tuple(messages):
            self._logged = tuple(messages)
            for message in messages:
                _log.log(level, "%s", message)


def _wanted(
    servable: RemoteServable, names: Iterable[str], warnings: list[str]
) -> list[tuple[int, str]]:
    """The versions that the policy selects, with the names of their directories."""
    by_number: dict[int, str] = {}
    for name in sorted(names):
        number = BARE_VERSION if name == _BARE else parse_version(name)
        if number is None:
            continue
        if number in by_number:
            warnings.append(
                f"Duplicate version directories detected. Version {number} will be loaded from "
                f"{name}, {by_number[number]} will be ignored."
            )
        by_number[number] = name
    if not by_number:
        warnings.append(
            f"No versions of servable {servable.name} found under base path "
            f"{shown(servable.base_url)}. Did you forget to name your leaf directory as a number "
            "(eg. '/1/')?"
        )
    match servable.version_policy:
        case All():
            chosen = sorted(by_number)
        case Latest(num_versions):
            chosen = sorted(by_number, reverse=True)[: max(num_versions, 1)]
        case Specific(versions):
            chosen = [number for number in versions if number in by_number]
            warnings.extend(
                f"Version {number} of servable {servable.name}, which was requested to be served "
                "as a 'specific' version in the servable's version policy, was not found at "
                f"{shown(servable.base_url)}"
                for number in versions
                if number not in by_number
            )
    return [(number, by_number[number]) for number in chosen]
