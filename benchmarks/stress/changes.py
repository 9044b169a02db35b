"""Changes on disk, and their effects on the models."""

from __future__ import annotations

import math
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial

from control import Operator
from disk import Disk
from splits import Split
from world import LABELS, Content, Model, Policy

VERSIONS = range(1, 10)

BUSY_SECONDS = 5.0
"""The minimum age of an unfinished version before its model is changed again, in seconds."""

APPEARING_SECONDS = 6.0
"""The minimum pause between changes of a base path without times, in seconds. Meanwhile new versions may still be
loading while others are served in their place."""

Act = Callable[[], None]


class Notes:
    """The history of changes.

    Attributes:
        rounds: The number of rounds.
        counts: The number of changes, by kind.
        recent: The last changes.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.rounds = 0
        self.counts: Counter[str] = Counter()
        self.recent: deque[str] = deque(maxlen=12)

    def add(self, what: str, model: Model, version: int | None = None) -> None:
        """Record a change."""
        self.counts[what.partition(" changed to ")[0]] += 1
        number = "" if version is None else f"/{version}"
        self.recent.append(f"round {self.rounds}: {what}: {model.name}{number}")

    def about(self, name: str) -> str:
        """The recent changes of a model."""
        return "; ".join(each for each in self.recent if name in each)


class DiskChanges:
    """Chooses changes.

    Attributes:
        between: Sets of versions that a model is asked to serve on the way, by name; consumed by the code that makes
            the change.
        faults: Codes that any request for a model may get meanwhile; consumed in the same way.
        killed: The number of killed workers.
        unfinished: When a model got an unfinished version, by name.
    """

    def __init__(self, disk: Disk, operator: Operator, notes: Notes, choose: random.Random) -> None:
        """Start without choices."""
        self.between: dict[str, list[frozenset[int]]] = {}
        self.faults: dict[str, frozenset[str]] = {}
        self.killed = 0
        self.unfinished: dict[str, float] = {}
        self._changed: dict[str, float] = {}
        self._disk = disk
        self._operator = operator
        self._notes = notes
        self._random = choose

    def are_over(self, model: Model) -> bool:
        """Whether the server has seen the changes of a model on disk, so that further ones may follow."""
        age = time.monotonic() - self._changed.get(model.name, -math.inf)
        return model.name not in self.unfinished and (not model.origin or age > APPEARING_SECONDS)

    def choose(self, model: Model) -> Act:
        """Choose a change, and record its effect on the model; the caller makes the change."""
        choose, disk = self._random, self._disk
        self._changed[model.name] = time.monotonic()
        if not model.is_there:
            model.is_there = True
            return self._noted("base path shown", model, lambda: disk.show(model))
        may_kill = model.workers and model.served and choose.random() < 0.3
        if may_kill and (act := self._kill(model)):
            return act
        absent = [v for v in VERSIONS if v not in model.versions and v not in model.served]
        present = sorted(model.versions)
        version = choose.choice(absent) if absent else 0
        options = ["litter"] + ["add", "add", "copy", "corrupt", "unusable"] * bool(absent)
        if model.is_steady:
            options = [each for each in options if each not in ("copy", "unusable")]
        elif absent and not (self.unfinished or model.origin) and choose.random() < 0.1:
            options = ["abandon"]
        elif present:
            options += ["hide"]
            options += ["remove"] * (1 + 2 * (len(present) > 3)) + ["repair", "clear", "flap"]
        match choose.choice(options):
            case "hide":
                model.is_there = False
                return self._noted("base path hidden", model, lambda: disk.hide(model))
            case "add":
                model.versions[version] = Content.GOOD
                return self._noted(
                    "version added", model, lambda: disk.add(model, version, Content.GOOD), version
                )
            case "corrupt":
                model.versions[version] = Content.CORRUPT
                return self._noted(
                    "corrupt version added",
                    model,
                    lambda: disk.add(model, version, Content.CORRUPT),
                    version,
                )
            case "unusable":
                remote = [Content.OVERSIZED, Content.UNREADABLE]
                content = choose.choice(remote) if model.origin else Content.FORBIDDEN
                model.versions[version] = content
                return self._noted(
                    f"{content.value} version added",
                    model,
                    lambda: disk.add(model, version, content),
                    version,
                )
            case "copy":
                finish = disk.copy_slowly(model, version)  # incomplete until `finish`
                model.versions[version] = Content.GOOD
                return self._noted("version copied slowly", model, finish, version)
            case "abandon":
                model.versions[version] = Content.UNFINISHED
                self.unfinished[model.name] = time.monotonic()
                return self._noted(
                    "version left unfinished",
                    model,
                    lambda: disk.add(model, version, Content.UNFINISHED),
                    version,
                )
            case "repair":
                return self._repair(model, present)
            case "flap":
                return self._flap(model, choose.choice(present))
            case "clear":
                model.versions.clear()
                return self._noted(
                    "all versions removed",
                    model,
                    lambda: disk.clear(model, present),
                )
            case "remove":
                version = choose.choice(present)
                del model.versions[version]
                return self._noted(
                    "version removed", model, lambda: disk.remove(model, version), version
                )
            case _:
                return self._noted("litter dropped", model, lambda: disk.litter(model))

    def _repair(self, model: Model, present: Sequence[int]) -> Act:
        """Replace a broken version, or complete it."""
        for version in present:
            content = model.versions[version]
            if content is Content.GOOD or version in model.served:
                continue
            if content is Content.ABANDONED:
                model.versions[version] = Content.GOOD
                finish = partial(self._disk.finish, model, version)
                return self._noted("abandoned version finished", model, finish, version)
            if content is Content.FORBIDDEN:
                model.versions[version] = Content.GOOD
                give_back = partial(self._disk.allow, model, version)
                return self._noted("permissions given back", model, give_back, version)
            if self._passes(model, version, Content.GOOD):
                replace = partial(self._disk.replace, model, version)
                return self._noted(f"{content.value} version replaced", model, replace, version)
        return self._noted("litter dropped", model, lambda: self._disk.litter(model))

    def _flap(self, model: Model, version: int) -> Act:
        if self._passes(model, version, model.versions[version]):
            flap = partial(self._disk.flap, model, version)
            return self._noted("version flapped", model, flap, version)
        return self._noted("litter dropped", model, lambda: self._disk.litter(model))

    def _passes(self, model: Model, version: int, after: Content) -> bool:
        """Make a version vanish and return with this content, if the result is the same whether that is seen or not."""
        before, served = model.versions, model.served
        without = {v: content for v, content in before.items() if v != version}
        model.versions = without
        between = model.next_served()
        model.versions = {**without, version: after}
        unseen = model.next_served()
        model.served = between
        seen = model.next_served()
        model.served = served
        is_certain = unseen == seen and not model.labels_wait
        if is_certain:
            self.between[model.name] = [between]
        else:
            model.versions = before
        return is_certain

    def _kill(self, model: Model) -> Act | None:
        """Kill some workers whose version is on disk, so that they can be replaced."""
        if not model.served <= {v for v, c in model.versions.items() if c is Content.GOOD}:
            return None
        workers = self._operator.workers(model)
        victims = self._random.sample(workers, self._random.randint(1, len(workers)))
        self.killed += len(victims)
        self.faults[model.name] = frozenset({"INTERNAL", "UNAVAILABLE"})

        def kill() -> None:
            for victim in victims:
                self._operator.kill_worker(victim)

        return self._noted("workers killed", model, kill)

    def expire(self, models: Sequence[Model]) -> list[Model]:
        """Find the models whose unfinished versions will soon be loaded as they are; each is found once."""
        now = time.monotonic()
        expired = [
            model
            for model in models
            if now - self.unfinished.get(model.name, now) > BUSY_SECONDS
            and Content.UNFINISHED in model.versions.values()
        ]
        for model in expired:
            for version, content in model.versions.items():
                if content is Content.UNFINISHED:
                    model.versions[version] = Content.ABANDONED
        return expired

    def age(self, models: Sequence[Model]) -> float:
        """The age of the youngest unfinished version of these models, in seconds; infinite for no models."""
        times = [self.unfinished[model.name] for model in models]
        return time.monotonic() - max(times) if times else math.inf

    def _noted(self, what: str, model: Model, act: Act, version: int | None = None) -> Act:
        self._notes.add(what, model, version)
        return act


def random_policy(choose: random.Random) -> Policy:
    """A policy that selects some versions, which may exist or not."""
    some = choose.sample(list(VERSIONS), 3)
    return choose.choice([Policy(1), Policy(2), Policy(), Policy(specific=tuple(some))])


def random_split(model: Model, choose: random.Random) -> Split:
    """A split over some versions, which may be served or not."""
    versions = choose.sample(list(VERSIONS), choose.randint(0, 2))
    served = choose.sample(sorted(model.served), min(len(model.served), 2))
    weights = {v: choose.choice([1, 1, 10, 99]) for v in [*versions, *served]} or {1: 1}
    if choose.random() < 0.3:
        weights |= {choose.choice(VERSIONS): 0}
    if not any(weights.values()):
        weights[1] = 1
    return Split(model.name, choose.choice(("", "", *LABELS)), weights, choose.random() < 0.5)


def random_shadow(model: Model, choose: random.Random) -> int:
    """A version for copies, mostly one that can get them."""
    return choose.choice([*sorted(model.served) * 9, *VERSIONS])
