"""Changes of single models by the administration API: their effects, and their expected answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from admin_calls import Call, entry_json
from changes import VERSIONS, Notes, random_policy, random_shadow, random_split
from splits import STICKY_HEADER
from world import LABELS, Model, Policy

LOAD_SECONDS = 30.0
LOAD_CODES = frozenset({"INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND", "DATA_LOSS", "OUT_OF_RANGE"})
"""The codes of failed loads of broken versions."""

MISSING_SECONDS = 0.3
"""How long to wait for a version that does not exist, in seconds."""


class Administrator:
    """Chooses requests."""

    def __init__(self, notes: Notes, choose: random.Random) -> None:
        """Start without choices."""
        self._notes = notes
        self._choose = choose

    def change(self, model: Model) -> Call:
        """Choose a change of a model at rest, and record its effect."""
        if not model.is_configured:
            model.is_configured = True
            model.desired = {}
            return self._call("model added", model, "PUT", "", entry_json(model))
        options: list[Callable[[Model], Call | None]]
        options = [
            self._label,
            self._split,
            self._split,
            self._shadow,
            self._shadow,
        ]
        if self._choose.random() < 0.3:
            options = [self._unlabel, self._unsplit, self._unshadow]
        elif model.is_there and not model.is_steady:
            options += [self._policy, self._load, self._load, self._unload, self._unload]
        if self._choose.random() < 0.15:
            options = [self._remove]
        while (call := self._choose.choice(options)(model)) is None:
            pass
        return call

    def refused(self, models: Sequence[Model]) -> Call:
        """A request that must be refused without an effect."""
        model = self._choose.choice(models)
        name = model.name if model.is_configured else "nobody"
        path, missing, wrong = f"/models/{name}", "NOT_FOUND", "INVALID_ARGUMENT"
        if not model.is_configured:
            wrong = missing
        calls = [
            ("unknown model", "PATCH", "/models/nobody", {}, missing),
            ("unknown model", "DELETE", "/models/nobody", None, missing),
            ("unknown route", "GET", "/nothing", None, missing),
            ("unknown method", "POST", path, {}, "UNIMPLEMENTED"),
            ("no JSON", "PUT", f"{path}/split", b"{", "INVALID_ARGUMENT"),
            ("no object", "PUT", f"{path}/shadow", [], "INVALID_ARGUMENT"),
            ("unknown field", "PATCH", path, {"nothing": 1}, wrong),
            ("another name", "PATCH", path, {"name": "other"}, wrong),
            ("another platform", "PATCH", path, {"model_platform": "none"}, wrong),
            ("relative path", "PATCH", path, {"base_path": "r"}, wrong),
            ("no weight", "PUT", f"{path}/split", {"versions": {"1": 0}}, wrong),
            ("no versions", "PUT", f"{path}/split", {"versions": 3}, "INVALID_ARGUMENT"),
            ("fraction", "PUT", f"{path}/shadow", {"version": 1, "fraction": 2}, wrong),
            ("no version", "PUT", f"{path}/labels/stable", {}, "INVALID_ARGUMENT"),
            ("unknown label", "DELETE", f"{path}/labels/none", None, missing),
            ("unknown version", "DELETE", f"{path}/versions/99", None, missing),
            ("no number", "PUT", f"{path}/versions/x", None, "INVALID_ARGUMENT"),
            ("web page", "DELETE", path, None, "PERMISSION_DENIED"),
        ]
        what, method, where, body, code = self._choose.choice(calls)
        headers = {"Origin": "http://example.com"} if what == "web page" else {}
        self._notes.counts[f"administration refused: {what}"] += 1
        return Call(what, method, where, body, frozenset({code}), headers=headers)

    # ---- changes; each returns None if it would have no effect

    def _remove(self, model: Model) -> Call:
        model.is_configured = False
        return self._call("model removed", model, "DELETE", "")

    def _policy(self, model: Model) -> Call:
        model.policy = random_policy(self._choose)
        # A merge patch keeps existing members unless it removes them.
        policy = {"latest": None, "all": None, "specific": None} | entry_json(model).get(
            "model_version_policy", {}
        )
        return self._call("policy", model, "PATCH", "", {"model_version_policy": policy})

    def _label(self, model: Model) -> Call:
        label, version = self._choose.choice(LABELS), self._choose.choice(VERSIONS)
        path = f"/labels/{label}"
        if not (model.labels_wait or version in model.served):
            return self._call(
                "label refused", model, "PUT", path, {"version": version}, "FAILED_PRECONDITION"
            )
        model.desired = {**model.desired, label: version}
        return self._call("label", model, "PUT", path, {"version": str(version)})

    def _unlabel(self, model: Model) -> Call:
        label = self._choose.choice(LABELS)
        code = "OK" if label in model.desired else "NOT_FOUND"
        model.desired = {k: v for k, v in model.desired.items() if k != label}
        return self._call("label removed", model, "DELETE", f"/labels/{label}", None, code)

    def _split(self, model: Model) -> Call:
        split = random_split(model, self._choose)
        model.wanted_splits = {**model.wanted_splits, split.label: split}
        body = {"versions": {str(v): weight for v, weight in split.weights.items()}}
        sticky = {"sticky_header": STICKY_HEADER} if split.is_sticky else {}
        return self._call("split", model, "PUT", _split_path(split.label), body | sticky)

    def _unsplit(self, model: Model) -> Call:
        label = self._choose.choice(("", *LABELS))
        code = "OK" if label in model.wanted_splits else "NOT_FOUND"
        model.wanted_splits = {k: v for k, v in model.wanted_splits.items() if k != label}
        return self._call("split removed", model, "DELETE", _split_path(label), None, code)

    def _shadow(self, model: Model) -> Call:
        model.shadow = random_shadow(model, self._choose)
        return self._call("shadow", model, "PUT", "/shadow", {"version": model.shadow})

    def _unshadow(self, model: Model) -> Call:
        code = "NOT_FOUND" if model.shadow is None else "OK"
        model.shadow = None
        return self._call("shadow removed", model, "DELETE", "/shadow", None, code)

    def _load(self, model: Model) -> Call | None:
        version, policy = self._choose.choice(VERSIONS), model.policy
        if version in model.failing():
            return None  # it has failed before, and is not retried until its content changes
        model.policy = policy.with_version(version, model.served)
        failing, served = model.failing(), model.next_served()
        path = f"/models/{model.name}/versions/{version}?timeout_seconds="
        if version in served:
            codes, is_applied, seconds = frozenset({"OK"}), False, LOAD_SECONDS
        elif version in model.served:
            # It exists when it is requested, and is removed because it is not on disk.
            model.policy = policy
            return None
        elif version in failing:
            codes, is_applied, seconds = failing[version] or LOAD_CODES, True, LOAD_SECONDS
        else:
            codes, is_applied, seconds = frozenset({"NOT_FOUND"}), True, MISSING_SECONDS
        ending = " (that cannot be)" * is_applied
        self._notes.add(f"administration: version loaded{ending}", model, version)
        return Call("version loaded", "PUT", f"{path}{seconds}", None, codes, is_applied)

    def _unload(self, model: Model) -> Call:
        version = self._choose.choice(sorted(model.served) or [1])
        wanted = model.policy.specific if model.policy.specific is not None else model.served
        code, is_applied, seconds = "OK", False, LOAD_SECONDS
        if version not in wanted:
            code = "NOT_FOUND"
        elif version in model.desired.values():
            code = "FAILED_PRECONDITION"
        else:
            model.policy = Policy(specific=tuple(sorted(set(wanted) - {version})))
            if version in model.next_served():  # it stays until another one is available
                code, is_applied, seconds = "DEADLINE_EXCEEDED", True, MISSING_SECONDS
        ending = "" if code == "OK" else f" ({code})"
        self._notes.add(f"administration: version unloaded{ending}", model, version)
        path = f"/models/{model.name}/versions/{version}?timeout_seconds={seconds}"
        return Call("version unloaded", "DELETE", path, None, frozenset({code}), is_applied)

    def _call(
        self, what: str, model: Model, method: str, path: str, body: object = None, code: str = "OK"
    ) -> Call:
        ending = "" if code == "OK" else f" ({code})"
        self._notes.add(f"administration: {what}{ending}", model)
        return Call(
            f"{what} of {model.name}",
            method,
            f"/models/{model.name}{path}",
            body,
            frozenset({code}),
        )


def _split_path(label: str) -> str:
    return f"/labels/{label}/split" if label else "/split"
