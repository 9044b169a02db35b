"""The correct answers to a request, at every moment.

Before a change, the code that makes it records all states that the model may pass through. After it, once the server is
at rest, it records the one final state. An answer is correct if it matches any state between the start and the end of
its request. At rest exactly one answer is correct.
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
        model: The model.
        version: The requested version, if any.
        label: The requested label, if any.
        caller: The value of the header for sticky splits, if it is sent.
        is_malformed: Whether the request names an input that no model has.
        code: The expected code, for questions that make a model fail.
    """

    model: str
    version: int | None = None
    label: str | None = None
    caller: str = ""
    is_malformed: bool = False
    code: str = OK


@dataclass(frozen=True, order=True)
class Outcome:
    """The result of a request: a canonical code, and the version that answered it.

    The numbers in the answer identify the version. Results that must never occur, such as a broken connection or an
    answer of another model, have a text in place of a code.
    """

    code: str
    version: int = 0

    def __str__(self) -> str:
        return f"version {self.version}" if self.code == OK else self.code


@dataclass(frozen=True)
class Moment:
    """The possible states of a model during a period.

    Attributes:
        served: The sets of served versions that it passes through; a single one at rest.
        labels: The tables of labels that it passes through.
        splits: The tables of splits that it passes through, by label.
        refusals: The codes for versions that are not served.
        faults: Further codes that any request may get, such as that of a killed worker.
    """

    served: tuple[frozenset[int], ...] = (frozenset(),)
    labels: tuple[Mapping[str, int], ...] = ({},)
    splits: tuple[Mapping[str, Split], ...] = ({},)
    refusals: frozenset[str] = frozenset({"NOT_FOUND"})
    faults: frozenset[str] = frozenset()

    def allows(self, question: Question) -> set[Outcome]:
        """All correct outcomes of a request."""
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
        # New versions are loaded before old ones are unloaded. Between two sets, any of their versions may be served,
        # and the common ones always are. On the way from or to an empty set, nothing else is served.
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
        """Begin a moment: before the first change, or after the last one."""
        self.moments.append(moment)

    def begin(self) -> int:
        """The position that a client records before its request."""
        return len(self.moments) - 1

    def allowed(self, question: Question, begun: int) -> set[Outcome]:
        """The correct answers to a question that began at a position and has been answered now."""
        met = self.moments[begun:]
        return {outcome for moment in met for outcome in moment.allows(question)}
