"""What the compatibility tests tell of what they compared."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Coverage:
    """One line of the table at the end of the test run.

    Attributes:
        name: The group of recordings or the area of cases.
        cases: How many there are.
        equal: How many were answered as the original does.
        explained: How many differ as `deviations.json` says.
        not_checkable: How many cannot be seen from outside.
    """

    name: str
    cases: int
    equal: int
    explained: int
    not_checkable: int = 0
