"""The choice of a weighted split: a second implementation of the rule in `docs/guides/canary.md`."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

STICKY_HEADER = "x-user"

_MASK = 2**64 - 1


@dataclass(frozen=True)
class Split:
    """The distribution of requests for a label of a model, or of those without a label.

    Attributes:
        model: The model.
        label: The label; empty for requests that name neither a version nor a label.
        weights: The weight of each version.
        is_sticky: Whether the header decides.
    """

    model: str
    label: str
    weights: Mapping[int, int] = field(hash=False)
    is_sticky: bool

    def winners(
        self, caller: str, throughout: Collection[int], sometimes: Collection[int]
    ) -> set[int]:
        """The versions that may answer a caller.

        Args:
            caller: The value of the header; empty without one.
            throughout: The versions that are available all the time.
            sometimes: The versions that are available at some time; includes the others.
        """
        candidates = {v for v in sometimes if self.weights.get(v)}
        if not (self.is_sticky and caller):
            return candidates
        sure = [self._draw(caller, v) for v in throughout if self.weights.get(v)]
        return {v for v in candidates if self._draw(caller, v) <= min(sure, default=math.inf)}

    def is_empty_without(self, others: Collection[int]) -> bool:
        """Whether no version answers if only these are available."""
        return not any(self.weights.get(version) for version in others)

    def _draw(self, caller: str, version: int) -> float:
        hashed = 0xCBF29CE484222325
        for byte in f"{self.model}\0{self.label}\0{caller}".encode():
            hashed = ((hashed ^ byte) * 0x100000001B3) & _MASK
        uniform = 1.0 - (_mix(hashed ^ _mix(version)) >> 11) / 2**53
        return -math.log(uniform) / self.weights[version]

    def entry(self) -> str:
        """The split's entry in a configuration file."""
        versions = " ".join(
            f"versions {{ version: {v} weight: {weight} }}" for v, weight in self.weights.items()
        )
        sticky = f'sticky_header: "{STICKY_HEADER}"' if self.is_sticky else ""
        return f'traffic_splits {{ label: "{self.label}" {sticky} {versions} }}'


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
