"""Checks of shadow copies: their answers always differ from the live ones, and each copy is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from admin_calls import Administration
from world import Model

KINDS = ("matched", "differed", "failed", "dropped", "unavailable")


class Shadows:
    """Checks the counts of the server.

    Attributes:
        counts: The number of copies, by outcome.
    """

    def __init__(self, administration: Administration) -> None:
        """Start without counts."""
        self.counts: Counter[str] = Counter()
        self._administration = administration
        self._before: dict[str, Counter[str]] = {}

    def complaints(self, models: Sequence[Model]) -> Iterator[str]:
        """Check the counts of models at rest.

        Yields:
            Impossible counts.
        """
        for model in models:
            if not (model.is_configured and model.shadow):
                self._before.pop(model.name, None)
                continue
            statistics = self._administration.shadow(model)
            counts = Counter({kind: statistics.get(kind, 0) for kind in KINDS})
            before = self._before.get(model.name, Counter())
            # Another version starts its counts at zero.
            self.counts += counts if any(counts[k] < before[k] for k in KINDS) else counts - before
            self._before[model.name] = counts
            if statistics.get("version") != str(model.shadow):
                yield f"the shadow of {model.name} is {statistics}, want version {model.shadow}"
            # Every version gives a different answer.
            elif counts["matched"] > before["matched"]:
                yield f"the shadow of {model.name} gave the live answer: {statistics}"
