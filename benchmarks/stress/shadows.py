"""What comes of the copies for shadows: none of them is ever like the live answer, and none is lost without a count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from admin_calls import Administration
from world import Model

KINDS = ("matched", "differed", "failed", "dropped", "unavailable")


class Shadows:
    """Looks at the counts of the server.

    Attributes:
        counts: How many copies there were, by what came of them.
    """

    def __init__(self, administration: Administration) -> None:
        """Look at nothing yet."""
        self.counts: Counter[str] = Counter()
        self._administration = administration
        self._before: dict[str, Counter[str]] = {}

    def complaints(self, models: Sequence[Model]) -> Iterator[str]:
        """Look at the counts of models at rest.

        Yields:
            What cannot be.
        """
        for model in models:
            if not (model.is_configured and model.shadow):
                self._before.pop(model.name, None)
                continue
            statistics = self._administration.shadow(model)
            counts = Counter({kind: statistics.get(kind, 0) for kind in KINDS})
            before = self._before.get(model.name, Counter())
            # Counting begins anew with another version.
            self.counts += counts if any(counts[k] < before[k] for k in KINDS) else counts - before
            self._before[model.name] = counts
            if statistics.get("version") != str(model.shadow):
                yield f"the shadow of {model.name} is {statistics}, want version {model.shadow}"
            # Every version gives another answer than the others.
            elif counts["matched"] > before["matched"]:
                yield f"the shadow of {model.name} gave the live answer: {statistics}"
