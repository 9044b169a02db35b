"""Finds versions as numbered directories below a base path (docs/spec/lifecycle.md §3).

It differs from TensorFlow Serving where operators run into that one's behaviour:
- A missing base path stops only its own model.
- A file whose name is a number is not a version.
- Changed settings are applied at once, without waiting for the next poll.
- A version that is still being written is held back.
- Versions have fingerprints of their content, so that a failed version is retried when it changes.
- A problem is reported once, until it changes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from servable.errors import Code, InvalidInputError, NotFoundError, ServableError
from servable.lifecycle._ids import ServableId
from servable.lifecycle._source import AspiredVersion, Target
from servable.sources._content import Directory, Look, Stillness, look_at
from servable.sources._model_files import explain_file, explain_files
from servable.sources._settling import IsComplete, SettleTimes, Settling
from servable.sources._version_policy import All, Latest, Specific, VersionPolicy

_log = logging.getLogger(__name__)

_VERSION = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]+[ \t\n\v\f\r]*", re.ASCII)
_SETTLE_POLL_SECONDS = 0.25
"""The interval at which versions that are held back are inspected, in seconds."""

BARE_VERSION = 1
"""The version number of a base path that itself holds a version."""


@dataclass(frozen=True, slots=True)
class MonitoredServable:
    """A stream to monitor.

    Attributes:
        name: The stream.
        base_path: The directory that holds a directory for each version.
        version_policy: Which versions are aspired.
        keep_last_version: Keep the aspired set when no version is left.
        is_complete: Tells complete versions from incomplete ones. A base path that is complete itself, and has no
            subdirectory with a number for a name, is version 1. Such a base path may be a file.
    """

    name: str
    base_path: str
    version_policy: VersionPolicy = field(default_factory=Latest)
    keep_last_version: bool = False
    is_complete: IsComplete | None = None


class FileSystemSource:
    """Polls base paths and emits the paths of versions.

    Safe to use from several threads; polls never overlap.
    """

    def __init__(
        self,
        servables: Iterable[MonitoredServable] = (),
        *,
        poll_wait_seconds: float = 1.0,
        servable_versions_always_present: bool = False,
        fail_if_zero_versions: bool = False,
        settle_times: SettleTimes | None = None,
        is_serving: Callable[[ServableId], bool] | None = None,
        report: Callable[[str, ServableError], None] = lambda name, problem: None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        """Prepare a source; nothing is read before it is connected.

        Args:
            servables: The streams to monitor.
            poll_wait_seconds: From the start of one poll to the start of the next. With 0 the source polls once when it
                is connected, and at every update. With a negative value it never polls.
            servable_versions_always_present: Never unload all versions of a monitored stream, and refuse streams that
                have none at first.
            fail_if_zero_versions: Refuse streams that have no version at first.
            settle_times: How long versions that are still being written are held back; by default not at all.
            is_serving: Whether a version is loaded, so that changes of its content no longer matter. Such versions are
                not inspected again. By default all versions are.
            report: Called with the reason why a stream has no version, whenever that reason changes.
            clock: Measures intervals.
            wall_clock: The time that the times of files are compared with.
            wait: How to pause between polls.
        """
        self._servables = {servable.name: servable for servable in servables}
        self._poll_wait_seconds = poll_wait_seconds
        self._always_present = servable_versions_always_present
        self._needs_versions = fail_if_zero_versions or servable_versions_always_present
        self._settling = Settling(settle_times or SettleTimes(), clock, wall_clock)
        self._stillness = Stillness(clock, wall_clock)
        self._is_serving = is_serving
        self._report_problem = report
        self._clock = clock
        self._wait = wait
        self._poll_lock = threading.Lock()
        self._problems: dict[str, ServableError] = {}
        self._reported: dict[str, tuple[str, ...]] = {}
        self._emitted: dict[str, list[tuple[int, str]]] = {}
        self._target: Target[str] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._settle_thread: threading.Thread | None = None

    def connect(self, target: Target[str]) -> None:
        """Set the target and begin to poll, on a thread of the source."""
        if self._target is not None:
            raise RuntimeError("a source has one target, and it is already connected")
        self._target = target
        if self._poll_wait_seconds >= 0:
            self._thread = threading.Thread(
                target=self._run, name="file-system-source", daemon=True
            )
            self._thread.start()

    def close(self, timeout_seconds: float | None = None) -> None:
        """Stop polling; emitted versions stay aspired.

        Args:
            timeout_seconds: How long to wait for a running poll; `None` waits without limit.
        """
        self._stop.set()
        for thread in (self._thread, self._settle_thread):
            if thread is not None:
                thread.join(timeout_seconds)

    def check(self, servables: Iterable[MonitoredServable]) -> None:
        """Refuse streams that cannot be monitored, before they are passed to `update`.

        Only if versions are required at first; changes and emits nothing.

        Raises:
            NotFoundError: A stream has no version.
        """
        if not self._needs_versions:
            return
        for servable in servables:
            try:
                found = _has_versions(servable)
            except OSError:
                found = False
            if not found:
                raise _no_numerical_path(servable)

    def update(self, servables: Iterable[MonitoredServable]) -> None:
        """Replace the set of monitored streams.

        Before this returns, removed streams are emptied and the others are polled, unless polling is off.
        """
        with self._poll_lock:
            previous = self._servables
            self._servables = {servable.name: servable for servable in servables}
            for name in {*previous, *self._servables}:
                self._stillness.forget(name)
            self._emitted.clear()
            for name in previous.keys() - self._servables.keys():
                self._problems.pop(name, None)
                self._reported.pop(name, None)
                self._settling.begin(name, ())
                if self._target is not None:
                    self._target.set_aspired_versions(name, [])
            if self._poll_wait_seconds < 0:
                for name in self._servables.keys() - previous.keys():
                    self._note_problem(
                        name,
                        NotFoundError(
                            f"No version of servable {name} was searched for, because polling is off"
                        ),
                    )
        if self._target is not None and self._poll_wait_seconds >= 0:
            self.poll()

    def problems(self) -> Mapping[str, ServableError]:
        """The streams in which the last poll found no version, with the reasons."""
        return dict(self._problems)

    def poll(self) -> None:
        """Inspect every base path once; emits the aspired versions of those that may have changed."""
        with self._poll_lock:
            for name in sorted(self._servables):
                if self._stop.is_set():
                    return
                if not self._stillness.is_as_remembered(name):
                    self._poll_one(self._servables[name])

    def _run(self) -> None:
        while not self._stop.is_set():
            started = self._clock()
            self.poll()
            if self._poll_wait_seconds == 0:
                return
            remaining = self._poll_wait_seconds - (self._clock() - started)
            if remaining > 0:
                self._wait(self._stop, remaining)

    def _poll_one(self, servable: MonitoredServable) -> None:
        warnings: list[str] = []
        name = servable.name
        self._stillness.forget(name)
        try:
            base = Directory.at(servable.base_path)
            found = self._wanted_versions(servable, warnings)
        except OSError as error:
            self._settling.begin(name, ())
            text = (
                f"Could not find base path {servable.base_path} for servable {name} "
                f"with error {_os_error_text(error, servable.base_path)}"
            )
            if os.path.isfile(servable.base_path):
                text += f"; {explain_file(servable.base_path)}"
            problem = InvalidInputError(text)
            self._report(
                name,
                logging.ERROR,
                [f"FileSystemStoragePathSource encountered a filesystem access error: {problem}"],
            )
            self._note_problem(name, problem)
            return
        if isinstance(self._problems.get(name), InvalidInputError):  # as just above
            _log.info("Base path %s for servable %s can be read now", servable.base_path, name)
        is_settling = self._settling.holds_back(name)
        if is_settling:
            self._watch_what_settles()
        may_empty = not (self._always_present or is_settling or _keeps_last(servable))
        if found or is_settling:
            self._problems.pop(name, None)
        else:
            self._note_problem(name, _no_numerical_path(servable))
            if not may_empty:
                warnings.append(f"Refusing to unload all versions for Servable: {name}")
        is_fine = warnings == [_bare(servable)]
        self._report(name, logging.INFO if is_fine else logging.WARNING, warnings)
        if self._target is None or not (found or may_empty):
            return
        if self._is_known_and_serves(name, found):
            if not is_settling:
                present = [path for _, path in found]
                self._stillness.remember(name, [base], base.modified_ns, present)
            return
        looks = [_look_at(path) for _, path in found]
        self._target.set_aspired_versions(
            name,
            [
                AspiredVersion(ServableId(name, number), path, look and look.fingerprint)
                for (number, path), look in zip(found, looks, strict=True)
            ],
        )
        self._emitted[name] = found
        if found and not is_settling:
            self._remember(name, base, looks)

    def _note_problem(self, name: str, problem: ServableError) -> None:
        before = self._problems.get(name)
        self._problems[name] = problem
        if before is None or before.message != problem.message:
            self._report_problem(name, problem)

    def _is_known_and_serves(self, name: str, found: list[tuple[int, str]]) -> bool:
        """Whether the target has these versions, and all of them are loaded."""
        return (
            self._is_serving is not None
            and bool(found)
            and self._emitted.get(name) == found
            and all(self._is_serving(ServableId(name, number)) for number, _ in found)
        )

    def _remember(self, name: str, base: Directory, looks: list[Look | None]) -> None:
        """Skip further inspections until something changes, if the directories are unchanged now."""
        seen = [look for look in looks if look is not None]
        if len(seen) == len(looks):
            changed_ns = max(base.modified_ns, *(look.changed_ns for look in seen))
            self._stillness.remember(name, [base, *(look.directory for look in seen)], changed_ns)

    def _wanted_versions(
        self, servable: MonitoredServable, warnings: list[str]
    ) -> list[tuple[int, str]]:
        """The settled versions that the policy selects, with their paths.

        Raises:
            OSError: The base path cannot be listed.
        """
        policy = servable.version_policy
        if isinstance(policy, Specific):
            found = _specific_versions(servable, policy, warnings)
            self._settling.begin(servable.name, (path for _, path in found))
            return [version for version in found if self._is_settled(servable, version)]
        children = _versions(servable, warnings)
        self._settling.begin(servable.name, (path for _, path in children))
        if not children:
            warnings.append(_no_versions(servable))
        if isinstance(policy, All):
            return [version for version in children if self._is_settled(servable, version)]
        by_number = _by_number(children, warnings)
        wanted: list[tuple[int, str]] = []
        for number in sorted(by_number, reverse=True):
            # A held-back version does not count: lower versions continue to serve meanwhile.
            if self._is_settled(servable, (number, by_number[number])):
                wanted.append((number, by_number[number]))
                if len(wanted) >= max(policy.num_versions, 1):
                    break
        return wanted

    def _is_settled(self, servable: MonitoredServable, version: tuple[int, str]) -> bool:
        return self._settling.is_settled(servable.name, version[1], servable.is_complete)

    def _watch_what_settles(self) -> None:
        """Inspect held-back versions more often than others; called with the poll lock held."""
        if self._settle_thread is None and self._poll_wait_seconds >= 0:
            thread = threading.Thread(
                target=self._poll_what_settles, name="file-system-settling", daemon=True
            )
            # If the system refuses a thread, the ordinary poll inspects them, only later.
            with contextlib.suppress(RuntimeError):
                thread.start()
                self._settle_thread = thread

    def _poll_what_settles(self) -> None:
        while True:
            self._wait(self._stop, _SETTLE_POLL_SECONDS)
            with self._poll_lock:
                names = [name for name in self._servables if self._settling.holds_back(name)]
                if self._stop.is_set() or not names:
                    self._settle_thread = None
                    return
                for name in names:
                    self._poll_one(self._servables[name])

    def _report(self, name: str, level: int, messages: list[str]) -> None:
        if self._reported.get(name, ()) != tuple(messages):
            self._reported[name] = tuple(messages)
            for message in messages:
                _log.log(level, "%s", message)


def parse_version(name: str) -> int | None:
    """The version number in a directory's name; `None` if the name is no number.

    A decimal number of 64 bits; surrounding white space, a sign and leading zeros are accepted.
    """
    if _VERSION.fullmatch(name) is None:
        return None
    number = int(name)
    return number if -(2**63) <= number < 2**63 else None


def _specific_versions(
    servable: MonitoredServable, policy: Specific, warnings: list[str]
) -> list[tuple[int, str]]:
    if not policy.versions:
        warnings.append(f"No specific versions requested for servable {servable.name}.")
        return []
    direct = [(number, os.path.join(servable.base_path, str(number))) for number in policy.versions]
    if all(os.path.isdir(path) for _, path in direct):
        return direct  # without a listing, which is slow on object stores
    children = _versions(servable, warnings)
    by_number = _by_number(children, warnings)
    found = [(number, by_number[number]) for number in policy.versions if number in by_number]
    warnings.extend(
        f"Version {number} of servable {servable.name}, which was requested to be served as a "
        "'specific' version in the servable's version policy, was not found in the file system"
        for number in policy.versions
        if number not in by_number
    )
    if not found:
        warnings.append(_no_versions(servable))
    return found


def _look_at(path: str) -> Look | None:
    """Inspect a version; `None` if it disappears or changes meanwhile."""
    try:
        return look_at(path)
    except OSError:
        return None


def _versions(servable: MonitoredServable, warnings: list[str]) -> list[tuple[int, str]]:
    """All versions, ordered by name.

    Raises:
        OSError: The base path cannot be listed, and is no file that is a version.
    """
    try:
        children = _children(servable.base_path)
    except NotADirectoryError:
        if not _is_bare(servable):
            raise
        return [(BARE_VERSION, servable.base_path)]
    if not children and _is_bare(servable):
        warnings.append(_bare(servable))
        return [(BARE_VERSION, servable.base_path)]
    return children


def _children(base_path: str) -> list[tuple[int, str]]:
    """All version directories, ordered by name."""
    with os.scandir(base_path) as entries:
        named = sorted(
            (entry.name, number, entry.path)
            for entry in entries
            if (number := parse_version(entry.name)) is not None and entry.is_dir()
        )
    return [(number, path) for _, number, path in named]


def _by_number(children: list[tuple[int, str]], warnings: list[str]) -> dict[int, str]:
    by_number: dict[int, str] = {}
    for number, path in children:
        if number in by_number:
            warnings.append(
                f"Duplicate version directories detected. Version {number} will be loaded from "
                f"{path}, {by_number[number]} will be ignored."
            )
        by_number[number] = path
    return by_number


def _has_versions(servable: MonitoredServable) -> bool:
    policy = servable.version_policy
    if isinstance(policy, Specific):
        return bool(_specific_versions(servable, policy, []))
    return bool(_versions(servable, []))


def _keeps_last(servable: MonitoredServable) -> bool:
    """Whether versions stay aspired when none is left; not if the policy selects none."""
    return servable.keep_last_version and servable.version_policy != Specific(())


def _is_bare(servable: MonitoredServable) -> bool:
    """Whether the base path itself holds a version; only called if it has no version directories."""
    return servable.is_complete is not None and servable.is_complete(servable.base_path)


def _bare(servable: MonitoredServable) -> str:
    return (
        f"The base path {servable.base_path} of servable {servable.name} holds a model itself, and "
        f"no version directory: it is served as version {BARE_VERSION}"
    )


def _no_numerical_path(servable: MonitoredServable) -> NotFoundError:
    text = (
        f"Unable to find a numerical version path for servable {servable.name} "
        f"at: {servable.base_path}"
    )
    try:
        explanation = explain_files(servable.base_path, os.listdir(servable.base_path))
    except OSError:
        explanation = ""
    return NotFoundError(f"{text}; {explanation}" if explanation else text)


def _no_versions(servable: MonitoredServable) -> str:
    return (
        f"No versions of servable {servable.name} found under base path {servable.base_path}. "
        "Did you forget to name your leaf directory as a number (eg. '/1/')?"
    )


def _os_error_text(error: OSError, path: str) -> str:
    match error:
        case FileNotFoundError():
            return f"{Code.NOT_FOUND.name}: {path} not found"
        case PermissionError():
            return f"{Code.PERMISSION_DENIED.name}: {path}; {error.strerror}"
        case NotADirectoryError():
            return f"{Code.FAILED_PRECONDITION.name}: {path}; {error.strerror}"
        case _:
            return f"{Code.UNKNOWN.name}: {path}; {error.strerror}"
