"""Counters and histograms of rare events, for the metrics page.

Names are internal ones, such as `/tensorflow/serving/model_warmup_latency`; the request path writes the page
(docs/spec/observability.md §3).
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_SERIES = 1000
"""The maximum number of points of a family. Each version has a new path, so old points must be dropped."""

LATENCY_LIMITS = tuple(10 * 1.8**exponent for exponent in range(33))
"""Bucket limits of latencies, in microseconds."""


@dataclass(slots=True)
class Distribution:
    """A histogram's buckets.

    Rust reads the fields by name.

    Attributes:
        limits: The upper limits of all buckets but the last; a value equal to a limit is above it.
        counts: The number of values in each bucket.
        sum: The sum of all values.
    """

    limits: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.limits) + 1)

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_right(self.limits, value)] += 1
        self.sum += value


@dataclass(frozen=True, slots=True)
class Family:
    """A metric with all its points; Rust reads the fields by name.

    Attributes:
        name: The internal name.
        kind: `counter`, `gauge` or `histogram`.
        labels: The names of the labels.
        points: The label values and the measured value of each point.
        help: The help text; the metrics of TensorFlow Serving have none.
    """

    name: str
    kind: str
    labels: tuple[str, ...] = ()
    points: Sequence[tuple[Sequence[str], int | float | Distribution]] = ()
    help: str = ""


class Counter:
    """Sums for each combination of label values. Safe to use from several threads."""

    def __init__(self, name: str, labels: Sequence[str], help_text: str = "") -> None:
        """Start without points."""
        self._family = Family(name, "counter", tuple(labels), (), help_text)
        self._lock = threading.Lock()
        self._values: dict[tuple[str, ...], int | float] = {}

    def add(self, *labels: str, amount: float = 1) -> None:
        """Add to the point with these label values."""
        with self._lock:
            self._values[labels] = self._values.pop(labels, 0) + amount
            _forget_oldest(self._values)

    def family(self) -> Family:
        """The current values."""
        with self._lock:
            points = tuple(self._values.items())
        family = self._family
        return Family(family.name, family.kind, family.labels, points, family.help)


class Histogram:
    """Distributions for each combination of label values. Safe to use from several threads."""

    def __init__(self, name: str, labels: Sequence[str], limits: tuple[float, ...]) -> None:
        """Start without points."""
        self._name, self._labels, self._limits = name, tuple(labels), limits
        self._lock = threading.Lock()
        self._values: dict[tuple[str, ...], Distribution] = {}

    def add(self, *labels: str, value: float) -> None:
        """Count a value at the point with these label values."""
        with self._lock:
            distribution = self._values.pop(labels, None) or Distribution(self._limits)
            distribution.add(value)
            self._values[labels] = distribution
            _forget_oldest(self._values)

    def family(self) -> Family:
        """The current values."""
        with self._lock:
            points = [
                (labels, Distribution(each.limits, list(each.counts), each.sum))
                for labels, each in self._values.items()
            ]
        return Family(self._name, "histogram", self._labels, points)


def _forget_oldest(values: dict[tuple[str, ...], Any]) -> None:
    """Drop the least recently updated point if there are too many."""
    if len(values) > MAX_SERIES:
        del values[next(iter(values))]
