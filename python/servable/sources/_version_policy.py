"""Version policies: which of the found versions are served (docs/spec/lifecycle.md §3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Latest:
    """The highest versions.

    Attributes:
        num_versions: How many; 0 counts as 1.
    """

    num_versions: int = 1


@dataclass(frozen=True, slots=True)
class All:
    """Every version."""


@dataclass(frozen=True, slots=True)
class Specific:
    """Versions given by number, as far as they exist.

    Attributes:
        versions: Their numbers; an empty set unloads everything.
    """

    versions: tuple[int, ...] = ()


VersionPolicy: TypeAlias = Latest | All | Specific
