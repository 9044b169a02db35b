"""Distribution of a model's requests over its versions: splits and the shadow, and their rules."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True)
class WeightedVersion:
    """A version and its weight in a split.

    Attributes:
        version: The version number.
        weight: Relative to the sum of the weights; 0 for no requests.
    """

    version: int
    weight: int


@dataclass(frozen=True, slots=True)
class TrafficSplit:
    """The distribution of requests for one label, or of those without a label.

    Attributes:
        label: The label; empty for requests that name neither a version nor a label.
        versions: The versions that answer them.
        sticky_header: The header or gRPC metadata key whose value pins a client to one version; empty for none.
    """

    label: str
    versions: tuple[WeightedVersion, ...]
    sticky_header: str = ""

    def missing(self, available: Collection[int]) -> frozenset[int]:
        """The versions with a positive weight that are not available."""
        weighted = {w.version for w in self.versions if w.weight}
        return frozenset(weighted.difference(available))

    def shares(self, available: Collection[int]) -> Mapping[int, float]:
        """The fraction of the requests for each version, while only these are available.

        All fractions are 0 if none of the versions is available.
        """
        weights = {w.version: w.weight if w.version in available else 0 for w in self.versions}
        total = sum(weights.values())
        return {v: weight / total if total else 0.0 for v, weight in weights.items()}


@dataclass(frozen=True, slots=True)
class Shadow:
    """A version that gets copies of requests.

    Attributes:
        version: The version number.
        fraction: The fraction of the requests that is copied, from 0 to 1.
    """

    version: int
    fraction: float


def read_splits(options: Any) -> tuple[TrafficSplit, ...]:
    """The splits of a `servable.ModelOptions` message."""
    return tuple(
        TrafficSplit(
            split.label,
            tuple(WeightedVersion(v.version, v.weight) for v in split.versions),
            split.sticky_header,
        )
        for split in options.traffic_splits
    )


def read_shadow(options: Any) -> Shadow | None:
    """The shadow of a `servable.ModelOptions` message, if it has one."""
    if not options.HasField("shadow"):
        return None
    return Shadow(options.shadow.version, options.shadow.fraction)


def traffic_problem(splits: Sequence[TrafficSplit], shadow: Shadow | None) -> str | None:
    """Why a configuration of splits and shadow is invalid; `None` if it is valid."""
    labels: set[str] = set()
    for split in splits:
        name = f"traffic split of label {split.label!r}" if split.label else "traffic split"
        if split.label in labels:
            return f"more than one {name}"
        labels.add(split.label)
        numbers = [weighted.version for weighted in split.versions]
        if len(set(numbers)) < len(numbers):
            return f"{name} names a version more than once"
        if not any(weighted.weight for weighted in split.versions):
            return f"{name} gives no version a weight"
        if split.sticky_header and _HEADER.fullmatch(split.sticky_header) is None:
            return f"{name}: {split.sticky_header!r} is not the name of a header"
    if shadow is not None and not 0 <= shadow.fraction <= 1:
        return f"the fraction of the shadow has to lie between 0 and 1; it is {shadow.fraction}"
    return None
