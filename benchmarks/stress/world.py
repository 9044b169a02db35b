"""The models of the chaos run: their content on disk, their configuration, and the resulting answers.

This is a second specification of the lifecycle, as a function from disk and configuration to the versions that are
served at rest. It does not describe how the server gets there.
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
"""The distance between the offsets of two models: an answer identifies its model and its version."""


class Content(enum.Enum):
    """The content of a version directory."""

    GOOD = "good"
    CORRUPT = "corrupt"  # looks complete, and fails to load
    UNFINISHED = "unfinished"  # lacks a file; held back until it has been unchanged for ten seconds
    ABANDONED = "abandoned"  # the same after that; fails to load
    FORBIDDEN = "forbidden"  # without read permission
    OVERSIZED = "oversized"  # too large for the cache of fetched versions
    UNREADABLE = "unreadable"  # its web server always truncates the file


FAILURES = {
    Content.FORBIDDEN: frozenset({"PERMISSION_DENIED"}),
    Content.OVERSIZED: frozenset({"RESOURCE_EXHAUSTED"}),
    Content.UNREADABLE: frozenset({"UNAVAILABLE"}),
}
"""The status codes of failures with a definite cause; other failures may have any code."""


@dataclass(frozen=True)
class Policy:
    """The aspired versions: the highest few, those named, or all."""

    latest: int = 0
    specific: tuple[int, ...] | None = None

    def pick(self, settled: set[int]) -> set[int]:
        """The settled versions that the policy selects."""
        if self.specific is not None:
            return settled.intersection(self.specific)
        return set(sorted(settled)[-self.latest :] if self.latest else settled)

    def with_version(self, version: int, served: Collection[int]) -> Policy:
        """The policy that loads a version in addition to the served ones."""
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
    """One model, and its state.

    Attributes:
        name: The name in requests.
        index: Its place among the models, from 1.
        root: The parent of its base path.
        platform: `tensorflow` or `python`.
        workers: The number of its worker processes, for Python servables.
        keeps_last: Whether its last version continues to serve when it vanishes.
        labels_wait: Whether labels attach when their versions become available.
        origin: The URL of the web server that its versions are fetched from, if any.
        is_steady: Whether its versions are never removed from disk.
        moods: The errors that its versions can be asked to make.
        versions: The contents on disk, by version.
        is_there: Whether the base path exists.
        policy: The configured version policy.
        is_configured: Whether the current configuration names it.
        desired: The labels of the current configuration.
        labels: The attached labels.
        wanted_splits: The configured splits, by label, whether in force or not.
        splits: The splits in force.
        shadow: The version that gets copies of requests.
        served: The versions that are served at rest.
        never_served: Whether the server answers UNAVAILABLE because no version was ever available.
        ledger: The correct answers to requests.
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
        """The parent of its versions, while the base path exists."""
        return self.root / self.name

    @property
    def configured_path(self) -> str:
        """The configured base path."""
        return f"{self.origin}/{self.name}" if self.origin else str(self.base_path)

    def offset(self, version: int) -> float:
        """The constant that a version adds to x / 2; unique among all versions of all models."""
        return float(self.index * OFFSET_STEP + version)

    def wanted(self) -> set[int]:
        """The versions that a poll of the base path aspires to."""
        settled = {v for v, content in self.versions.items() if content is not Content.UNFINISHED}
        return self.policy.pick(settled)

    def failing(self) -> dict[int, frozenset[str]]:
        """The aspired versions that cannot be loaded, with the possible codes if the cause is definite."""
        if not (self.is_configured and self.is_there):
            return {}
        failing = {v for v in self.wanted() if not self._loads(v)}
        return {v: FAILURES.get(self.versions[v], frozenset()) for v in failing}

    def next_served(self) -> frozenset[int]:
        """The versions that will be served at rest, given those that were served before."""
        if not self.is_configured:
            return frozenset()
        if not self.is_there:  # a missing base path changes nothing
            return self.served
        wanted = self.wanted()
        if not wanted:
            return self.served if self._stays_without_versions() else frozenset()
        loaded = frozenset(filter(self._loads, wanted))
        # The last one stays until another is available, which may never happen.
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
        """Its entry in a configuration file, with some parts replaced."""
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
        """Allow every state on the way from the last rest to the next.

        Args:
            between: Sets of versions that are aspired to on the way.
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
                faults=faults | self._refusals_of_runs(),
            )
        )
        self.labels, self.splits, self.served = labels, splits, after
        self.never_served = self._stays_unserved(after)

    def rest(self) -> None:
        """Allow only the state at rest; called when the server has reached it."""
        self.ledger.write(
            Moment(
                (self.served,),
                (self.labels,),
                (self.splits,),
                refusals=self._refusals(self.never_served),
                faults=self._refusals_of_runs(),
            )
        )

    def _loads(self, version: int) -> bool:
        # A loaded version is not loaded again, whatever happens to its directory.
        return version in self.served or self.versions.get(version) is Content.GOOD

    def _stays_without_versions(self) -> bool:
        is_writing = any(each is Content.UNFINISHED for each in self.versions.values())
        if self.policy.specific is not None:
            looked_at = {v: c for v, c in self.versions.items() if v in self.policy.specific}
            is_writing = any(each is Content.UNFINISHED for each in looked_at.values())
        return is_writing or (self.keeps_last and self.policy.specific != ())

    def _refusals_of_runs(self) -> frozenset[str]:
        # While a run hangs, there may be no room for others.
        return frozenset({"UNAVAILABLE"} if Mood.HANG in self.moods else ())

    def _stays_unserved(self, served: frozenset[int]) -> bool:
        return self.never_served and self.is_configured and not served

    @staticmethod
    def _refusals(never_served: bool) -> frozenset[str]:
        return frozenset({"UNAVAILABLE" if never_served else "NOT_FOUND"})
