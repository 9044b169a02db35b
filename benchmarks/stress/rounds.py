"""Rounds of random changes: choose, record, execute, and wait for the result."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from admin_calls import Administration, Call, expected_configuration
from administration import Administrator
from changes import VERSIONS, Act, DiskChanges, Notes, random_policy, random_shadow, random_split
from control import Operator
from disk import Disk
from shadows import Shadows
from world import LABELS, Model

NOTICE_SECONDS = 1.4
"""After this time a poll has seen all earlier changes."""
ABANDONED_SECONDS = 10.6
"""After this time an unfinished version is loaded as it is."""
REST_SECONDS = 90.0
"""The server must come to rest within this time. Remote versions with a damaged graph are held back for 60 seconds."""


Change = Callable[[], str | None]
"""Changes the configuration, and returns the error in the answer, if any."""


class Chaos:
    """Changes the models.

    Attributes:
        notes: The history of changes.
    """

    def __init__(
        self,
        models: Sequence[Model],
        disk: Disk,
        operator: Operator,
        administration: Administration,
        choose: random.Random,
    ) -> None:
        """Start without changes."""
        self.notes = Notes()
        self._models = models
        self._changes = DiskChanges(disk, operator, self.notes, choose)
        self._operator = operator
        self._administration = administration
        self._administrator = Administrator(self.notes, choose)
        self._shadows = Shadows(administration)
        self._choose = choose
        self._sourced = {model.name for model in models}

    @property
    def copies(self) -> Mapping[str, int]:
        """The counts of copies for shadows."""
        return self._shadows.counts

    @property
    def killed(self) -> int:
        """The number of killed workers."""
        return self._changes.killed

    def play_round(self) -> Iterator[str]:
        """Change some models concurrently, and wait until the server is at rest.

        Yields:
            Errors of the server.
        """
        self.notes.rounds += 1
        choose = self._choose
        idle = list(filter(self._changes.are_over, self._models))
        changed = choose.sample(idle, choose.randint(1, min(4, len(idle)))) if idle else []
        others = [model for model in idle if model not in changed]
        is_administered = bool(others) and choose.random() < 0.6
        acts: list[Act] = []
        reconfigured: list[Model] = []
        for model in changed:
            if not is_administered and choose.random() < (0.35 if model.is_configured else 0.8):
                self._reconfigure(model)
                reconfigured.append(model)
            else:
                acts.append(self._changes.choose(model))
        change: Change | None = None
        if is_administered:
            model = choose.choice(others)
            changed.append(model)
            change = self._administer(self._administrator.change(model))
        elif reconfigured or choose.random() < 0.2:
            changed += self._choose_labels(reconfigured, changed)
            change = self._reload(self._expected_code())
        for model in changed:
            between = self._changes.between.pop(model.name, [])
            faults = self._changes.faults.pop(model.name, frozenset())
            model.begin_change(*between, faults=faults)
        yield from self._act(acts, change, changed)
        self.wait_for_rest(changed)
        yield from self._shadows.complaints(self._models)
        if is_administered:
            yield from self._compare_configurations()
        if choose.random() < 0.3:
            yield from self._provoke()

    def wait_for_rest(self, models: Sequence[Model]) -> None:
        """Wait until the server reports the expected state twice in succession.

        A round can take long. Unfinished versions of other models that are loaded meanwhile belong to it.

        Raises:
            TimeoutError: It does not come to rest.
        """
        end = time.monotonic() + REST_SECONDS
        models = list(models)
        expired: list[Model] = []
        good_looks = 0
        while good_looks < 2 or self._changes.age(expired) < ABANDONED_SECONDS:
            for model in self._changes.expire(self._models):
                model.begin_change()
                expired.append(model)
                models.append(model)
            states = {model.name: self._operator.states(model.name) for model in models}
            restless = [m for m in models if not self._operator.is_at_rest(m, states[m.name])]
            good_looks = 0 if restless else good_looks + 1
            if restless and time.monotonic() > end:
                reasons = [
                    f"{m.name} wants {sorted(m.served)} served and {sorted(m.failing())} failed, "
                    f"is {states[m.name]}, workers {self._operator.workers(m)}, "
                    f"on disk {m.versions}, {m.policy}; {self.notes.about(m.name)}"
                    for m in restless
                ]
                raise TimeoutError("no rest: " + " | ".join(reasons))
            time.sleep(0.05)
        for model in expired:
            del self._changes.unfinished[model.name]
        for model in models:
            model.rest()

    # ---- changes of the configuration

    def _reconfigure(self, model: Model) -> None:
        if not model.is_configured:
            model.is_configured = True
            model.desired = {}
            self.notes.add("model configured", model)
        elif self._choose.random() < 0.25:
            model.is_configured = False
            self.notes.add("model removed from the configuration", model)
        else:
            if not model.is_steady:
                model.policy = random_policy(self._choose)
                self.notes.add(f"policy changed to {model.policy}", model)
            self._spread(model)

    def _spread(self, model: Model) -> None:
        """Change the splits and the shadow, or keep them."""
        match self._choose.randrange(4):
            case 0:
                model.wanted_splits, model.shadow = {}, None
                self.notes.add("splits and shadow taken away", model)
            case 1:
                split = random_split(model, self._choose)
                model.wanted_splits = {**model.wanted_splits, split.label: split}
                self.notes.add(f"split changed to {split}", model)
            case 2:
                model.shadow = random_shadow(model, self._choose)
                self.notes.add(f"shadow changed to {model.shadow}", model)

    def _choose_labels(
        self, reconfigured: Sequence[Model], changed: Sequence[Model]
    ) -> list[Model]:
        """Choose labels for each configured model that a reload must accept.

        Returns:
            The models that were not to be changed yet.
        """
        more = []
        for model in self._models:
            if not model.is_configured:
                continue
            labels = {k: v for k, v in model.desired.items() if self._choose.random() < 0.8}
            if model.labels_wait:
                targets = list(VERSIONS)
            else:
                # A version that is changing on disk may or may not be available at the reload.
                stays = model in reconfigured or model not in changed
                available = model.served if stays else model.served & model.next_served()
                for between in self._changes.between.get(model.name, []):
                    available &= between
                targets = sorted(available)
                labels = {k: v for k, v in labels.items() if v in targets}
            if targets and self._choose.random() < 0.5:
                labels[self._choose.choice(LABELS)] = self._choose.choice(targets)
            if labels != model.desired:
                self.notes.add(f"labels changed to {labels}", model)
                model.desired = labels
                if model not in changed:
                    more.append(model)
        return more

    def _expected_code(self) -> str:
        """The expected code of the next reload."""
        without_version, failed = False, False
        for model in self._models:
            if model.is_configured and model.name not in self._sourced:
                if model.next_served():
                    continue
                failed = failed or bool(model.failing())
                without_version = without_version or not model.failing()
        self._sourced = {model.name for model in self._models if model.is_configured}
        return "UNKNOWN" if failed else "NOT_FOUND" if without_version else "OK"

    def _entries(self) -> list[str]:
        return [model.entry() for model in self._models if model.is_configured]

    def _reload(self, expected: str) -> Change:
        """Replace the whole configuration, over gRPC."""
        entries = self._entries()

        def reload() -> str | None:
            code = self._operator.reload(entries)
            self.notes.counts["reload"] += 1
            if code == expected:
                return None
            recent = "; ".join(self.notes.recent)
            return f"a reload was answered {code}, want {expected}; {recent}"

        return reload

    def _administer(self, call: Call) -> Change:
        """Change one model, by the administration API."""
        code = self._expected_code()
        if code != "OK":
            call = replace(call, codes=frozenset({code}), is_applied=True)

        def administer() -> str | None:
            complaint, _ = self._administration.send(call)
            return complaint and f"{complaint}; {'; '.join(self.notes.recent)}"

        return administer

    def _act(
        self, acts: Sequence[Act], change: Change | None, changed: Sequence[Model]
    ) -> Iterator[str]:
        """Execute the changes: that of the configuration after those on disk, or concurrently."""
        complaints: list[str | None] = []
        changing = threading.Thread(target=lambda: complaints.append(change and change()))
        is_concurrent = self._choose.random() < 0.5
        if is_concurrent:
            changing.start()
        for act in acts:
            act()
            time.sleep(self._choose.uniform(0, 0.1))
        if not is_concurrent:
            changing.start()
        changing.join()
        yield from filter(None, complaints or ["a change of the configuration failed"])
        if change is not None:
            for model in self._models:
                if not model.is_configured:
                    model.rest()  # a removed model must answer nothing after the return
        # A configuration change makes the server poll the file system, but no web server. Versions of models that are
        # not configured have to settle before the next round can configure them.
        is_noticed = (
            change is not None
            and not is_concurrent
            and all(model.is_configured and not model.origin for model in changed)
        )
        if acts and not is_noticed:
            time.sleep(NOTICE_SECONDS)

    def _compare_configurations(self) -> Iterator[str]:
        found, wanted = self._administration.configuration(), expected_configuration(self._models)
        if found != wanted:
            odd = [each for each in found if each not in wanted]
            lacking = [each for each in wanted if each not in found]
            yield f"the configuration in force has {odd}, want {lacking}"

    def _provoke(self) -> Iterator[str]:
        """Send configurations that must be refused without an effect."""
        if self._choose.random() < 0.6:
            complaint, _ = self._administration.send(self._administrator.refused(self._models))
            yield from filter(None, [complaint])
            yield from self._compare_configurations()
            return
        entries = self._entries()
        model = self._choose.choice(self._models)
        missing = next(v for v in (99, *VERSIONS) if v not in model.served)
        python = model.platform == "python"
        bad = {
            "twice": ([*entries, model.entry(), model.entry()], "INVALID_ARGUMENT"),
            "relative path": (
                [*entries, 'config { name: "r" base_path: "r" model_platform: "tensorflow" }'],
                "INVALID_ARGUMENT",
            ),
            "unknown platform": (
                [*entries, 'config { name: "u" base_path: "/u" model_platform: "u" }'],
                "INVALID_ARGUMENT",
            ),
            "label of nothing": (
                [each for each in entries if f'"{model.name}"' not in each]
                + [model.entry(desired={"stable": missing})],
                "OK" if model.labels_wait else "FAILED_PRECONDITION",
            ),
        }
        if model.is_configured:
            platform = "tensorflow" if python else "python"
            other = f'config {{ name: "{model.name}" base_path: "/" model_platform: "{platform}" }}'
            kept = [each for each in entries if f'"{model.name}"' not in each]
            bad["another platform"] = ([*kept, other], "INVALID_ARGUMENT")
        if model.labels_wait:
            del bad["label of nothing"]
        kind = self._choose.choice(sorted(bad))
        sent, expected = bad[kind]
        code = self._operator.reload(sent)
        self.notes.counts[f"reload refused: {kind}"] += 1
        if code != expected:
            yield f"a reload ({kind}, {model.name}) was answered {code}, want {expected}"
