"""What a request may be answered, at every moment.

Whoever changes what is served writes down, before the change, which states the model may pass through, and after it,
once the server is at rest again, the one state that it is in. A request may be answered as any state allows that it
has met between its start and its end. At rest that is exactly one answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from splits import Split

OK = "OK"
UNKNOWN_LABEL = "INVALID_ARGUMENT"
MALFORMED = "INVALID_ARGUMENT"


@dataclass(frozen=True)
class Question:
    """A predict request.

    Attributes:
        model: The model asked.
        version: The version asked for, if one is.
        label: The label asked for, if one is.
        caller: The value of the header that splits stick to, if it is sent.
        is_malformed: Whether it names an input that no model has.
        code: What who asks it gets from whichever version answers, for questions that make a model fail.
    """

    model: str
    version: int | None = None
    label: str | None = None
    caller: str = ""
    is_malformed: bool = False
    code: str = OK


@dataclass(frozen=True, order=True)
class Outcome:
    """How a request ended: a canonical code, and the version that answered it.

    The version is told by the numbers of the answer. What cannot happen at all, such as a broken connection or an
    answer of another model, has a text of its own for a code.
    """

    code: str
    version: int = 0

    def __str__(self) -> str:
        return f"version {self.version}" if self.code == OK else self.code


@dataclass(frozen=True)
class Moment:
    """The states that a model may be in for a while.

    Attributes:
        served: The sets of served versions that it passes through; one of them if it is at rest.
        labels: The tables of labels that it passes through.
        splits: The tables of splits that it passes through, by label.
        refusals: The codes for versions that are not served.
        faults: Further codes that any request may get, such as that of a worker that is killed.
    """

    served: tuple[frozenset[int], ...] = (frozenset(),)
    labels: tuple[Mapping[str, int], ...] = ({},)
    splits: tuple[Mapping[str, Split], ...] = ({},)
    refusals: frozenset[str] = frozenset({"NOT_FOUND"})
    faults: frozenset[str] = frozenset()

    def allows(self, question: Question) -> set[Outcome]:
        """Every outcome that a request may have."""
        if question.version is not None:
            outcomes = self._specific(question.version)
        else:
            found = {splits.get(question.label or "") for splits in self.splits}
            outcomes = {
                outcome
                for split in found
                for outcome in (
                    self._unsplit(question.label)
                    if split is None
                    else self._split(split, question.caller)
                )
            }
        if question.is_malformed:
            outcomes = {Outcome(MALFORMED) if each.code == OK else each for each in outcomes}
        elif question.code != OK:
            outcomes = {Outcome(question.code) if each.code == OK else each for each in outcomes}
        return outcomes | {Outcome(code) for code in self.faults}

    def _unsplit(self, label: str | None) -> set[Outcome]:
        if label is None:
            return self._latest()
        targets = {labels.get(label) for labels in self.labels}
        return {
            outcome
            for target in targets
            for outcome in ({Outcome(UNKNOWN_LABEL)} if target is None else self._specific(target))
        }

    def _split(self, split: Split, caller: str) -> set[Outcome]:
        throughout = frozenset.intersection(*self.served)
        winners = split.winners(caller, throughout, frozenset.union(*self.served))
        outcomes = {Outcome(OK, version) for version in winners}
        if split.is_empty_without(throughout):
            outcomes.update(map(Outcome, self.refusals))
        return outcomes

    def _specific(self, version: int) -> set[Outcome]:
        outcomes = set()
        if any(version in served for served in self.served):
            outcomes.add(Outcome(OK, version))
        if not all(version in served for served in self.served):
            outcomes.update(map(Outcome, self.refusals))
        return outcomes

    def _latest(self) -> set[Outcome]:
        # The new is loaded before the old goes: between two sets, any versions of both are served, and those of both
        # sets all the time. Nothing is served only on the way from nothing or to nothing.
        throughout = frozenset.intersection(*self.served)
        lowest = max(throughout, default=0)
        outcomes = {
            Outcome(OK, version) for version in frozenset.union(*self.served) if version >= lowest
        }
        if not all(self.served):
            outcomes.update(map(Outcome, self.refusals))
        return outcomes


@dataclass
class Ledger:
    """The moments of one model, in order; written by one thread, read by the clients."""

    moments: list[Moment] = field(default_factory=lambda: [Moment()])

    def write(self, moment: Moment) -> None:
        """Begin a moment: before anything changes, or after all of it has."""
        self.moments.append(moment)

    def begin(self) -> int:
        """What a client notes before it asks."""
        return len(self.moments) - 1

    def allowed(self, question: Question, begun: int) -> set[Outcome]:
        """What a question may be answered that was begun then and has been answered now."""
        met = self.moments[begun:]
        return {outcome for moment in met for outcome in moment.allows(question)}
