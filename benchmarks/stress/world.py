"""The models of the chaos run: what is on disk, what is configured, and what follows from both for who asks.

This is the specification of the lifecycle once more, written as a function from disk and configuration to the versions
that are served at rest. It knows nothing of how the server gets there.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from moods import Mood
from oracle import Ledger, Moment
from splits import Split

LABELS = ("stable", "canary")

OFFSET_STEP = 64
"""Offsets of the models are so far apart: an answer tells its model and its version."""


class Content(enum.Enum):
    """What is in a version directory."""

    GOOD = "good"
    CORRUPT = "corrupt"  # complete to look at, and fails to load
    UNFINISHED = "unfinished"  # lacks a file; held back, until it has not changed for ten seconds
    ABANDONED = "abandoned"  # the same after that; fails to load
    FORBIDDEN = "forbidden"  # may not be read
    OVERSIZED = "oversized"  # too large for the cache of fetched versions
    UNREADABLE = "unreadable"  # its web server breaks off in the middle of a file, again and again


FAILURES = {
    Content.FORBIDDEN: frozenset({"PERMISSION_DENIED"}),
    Content.OVERSIZED: frozenset({"RESOURCE_EXHAUSTED"}),
    Content.UNREADABLE: frozenset({"UNAVAILABLE"}),
}
"""The codes in the status of what fails for a reason that can be told; of the rest, any."""


@dataclass(frozen=True)
class Policy:
    """Which versions are wanted: the highest few, those named, or all."""

    latest: int = 0
    specific: tuple[int, ...] | None = None

    def pick(self, settled: set[int]) -> set[int]:
        """The versions that are wanted of those that have settled."""
        if self.specific is not None:
            return settled.intersection(self.specific)
        return set(sorted(settled)[-self.latest :] if self.latest else settled)

    def with_version(self, version: int, served: Collection[int]) -> Policy:
        """What it becomes when a version is to be loaded beside those that are served."""
        if self.specific is None and not self.latest:
            return self
        wanted = served if self.specific is None else self.specific
        return Policy(specific=tuple(sorted({*wanted, version})))

    def __str__(self) -> str:
        if self.specific is not None:
            return f"specific {{ {' '.join(f'versions: {each}' for each in self.specific)} }}"
        return f"latest {{ num_versions: {self.latest} }}" if self.latest else "all { }"


@dataclass
class Model:
    """One model, and what is known about it.

    Attributes:
        name: What requests call it.
        index: Its place among the models, from 1.
        root: The directory that its base path is in.
        platform: `tensorflow` or `python`.
        workers: Processes that run it, if it is a Python servable.
        keeps_last: Whether its last version serves on when it vanishes.
        labels_wait: Whether labels attach when their versions become available.
        origin: The URL of the web server that its versions are fetched from, if they are.
        is_steady: Whether its versions stay on disk for good.
        moods: What its versions can be asked to do wrong.
        versions: What is on disk, by version.
        is_there: Whether the base path is.
        policy: Which versions are configured.
        is_configured: Whether the configuration in force names it.
        desired: The labels of the configuration in force.
        labels: Those of them that are attached.
        wanted_splits: The splits of the configuration, by label, whether it is in force or not.
        splits: Those that are in force.
        shadow: The version that gets copies of requests.
        served: The versions that are served at rest.
        never_served: Whether the server says UNAVAILABLE because there never was a version.
        ledger: What requests may be answered.
    """

    name: str
    index: int
    root: Path
    platform: str = "tensorflow"
    workers: int = 0
    keeps_last: bool = False
    labels_wait: bool = False
    origin: str = ""
    is_steady: bool = False
    moods: tuple[Mood, ...] = ()
    versions: dict[int, Content] = field(default_factory=dict)
    is_there: bool = True
    policy: Policy = Policy(latest=1)
    is_configured: bool = True
    desired: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    wanted_splits: dict[str, Split] = field(default_factory=dict)
    splits: Mapping[str, Split] = field(default_factory=dict)
    shadow: int | None = None
    served: frozenset[int] = frozenset()
    never_served: bool = True
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def base_path(self) -> Path:
        """Where its versions are, while the base path is there."""
        return self.root / self.name

    @property
    def configured_path(self) -> str:
        """The base path of the configuration."""
        return f"{self.origin}/{self.name}" if self.origin else str(self.base_path)

    def offset(self, version: int) -> float:
        """What a version adds to x / 2; no other version of any model adds the same."""
        return float(self.index * OFFSET_STEP + version)

    def wanted(self) -> set[int]:
        """The versions that a look at the base path asks for."""
        settled = {v for v, content in self.versions.items() if content is not Content.UNFINISHED}
        return self.policy.pick(settled)

    def failing(self) -> dict[int, frozenset[str]]:
        """The versions that are asked for and cannot be loaded, and the codes that tell why, if that is certain."""
        if not (self.is_configured and self.is_there):
            return {}
        failing = {v for v in self.wanted() if not self._loads(v)}
        return {v: FAILURES.get(self.versions[v], frozenset()) for v in failing}

    def next_served(self) -> frozenset[int]:
        """The versions that will be served at rest, after those that were served before."""
        if not self.is_configured:
            return frozenset()
        if not self.is_there:  # changes nothing
            return self.served
        wanted = self.wanted()
        if not wanted:
            return self.served if self._stays_without_versions() else frozenset()
        loaded = frozenset(filter(self._loads, wanted))
        # The last one stays until something replaces it, which may be never.
        return loaded or frozenset(sorted(self.served)[-1:])

    def next_labels(self, available: frozenset[int]) -> dict[str, int]:
        """The labels that will be attached once these versions have been available."""
        if not self.is_configured:
            return {}
        if not self.labels_wait:
            return dict(self.desired)
        kept = {label: version for label, version in self.labels.items() if label in self.desired}
        return kept | {k: version for k, version in self.desired.items() if version in available}

    def entry(
        self, *, desired: Mapping[str, int] | None = None, policy: Policy | None = None
    ) -> str:
        """Its entry in a configuration file, with some of it replaced."""
        labels = " ".join(
            f'version_labels {{ key: "{label}" value: {version} }}'
            for label, version in (self.desired if desired is None else desired).items()
        )
        options = " ".join(
            [
                f"keep_last_version: {str(self.keeps_last).lower()}",
                f"labels_when_available: {str(self.labels_wait).lower()}",
                f"python {{ workers: {self.workers} }}",
                *(split.entry() for split in self.wanted_splits.values()),
                f"shadow {{ version: {self.shadow} fraction: 1 }}" if self.shadow else "",
            ]
        )
        return (
            f'config {{ name: "{self.name}" base_path: "{self.configured_path}" '
            f'model_platform: "{self.platform}" model_version_policy {{ {policy or self.policy} }} '
            f"{labels} servable_options {{ {options} }} }}"
        )

    def begin_change(self, *between: frozenset[int], faults: frozenset[str] = frozenset()) -> None:
        """Allow everything on the way from the last rest to the next.

        Args:
            between: Sets of versions that are asked for on the way.
            faults: Codes that any request may get meanwhile.
        """
        after = self.next_served()
        labels = self.next_labels(self.served | after)
        splits = dict(self.wanted_splits) if self.is_configured else {}
        had_never_served = self.never_served
        self.ledger.write(
            Moment(
                served=(self.served, *between, after),
                labels=(self.labels, labels),
                splits=(self.splits, splits),
                refusals=self._refusals(had_never_served)
                | self._refusals(self._stays_unserved(after)),
                faults=faults,
            )
        )
        self.labels, self.splits, self.served = labels, splits, after
        self.never_served = self._stays_unserved(after)

    def rest(self) -> None:
        """Allow only what is so at rest; called when the server has got there."""
        self.ledger.write(
            Moment(
                (self.served,),
                (self.labels,),
                (self.splits,),
                refusals=self._refusals(self.never_served),
            )
        )

    def _loads(self, version: int) -> bool:
        # What is loaded is not loaded again, whatever has become of its directory.
        return version in self.served or self.versions.get(version) is Content.GOOD

    def _stays_without_versions(self) -> bool:
        is_writing = any(each is Content.UNFINISHED for each in self.versions.values())
        if self.policy.specific is not None:
            looked_at = {v: c for v, c in self.versions.items() if v in self.policy.specific}
            is_writing = any(each is Content.UNFINISHED for each in looked_at.values())
        return is_writing or (self.keeps_last and self.policy.specific != ())

    def _stays_unserved(self, served: frozenset[int]) -> bool:
        return self.never_served and self.is_configured and not served

    @staticmethod
    def _refusals(never_served: bool) -> frozenset[str]:
        return frozenset({"UNAVAILABLE" if never_served else "NOT_FOUND"})
