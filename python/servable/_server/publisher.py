"""Maintains the public state of each model, and publishes it to the request path on every change.

This is where servables become models again. The lifecycle has versions and their states. The request path has models
with versions, labels and a reason why they do not answer yet.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from servable._server.border.gateway import PublishedModel, PublishedVersion
from servable._server.config.traffic import Shadow, TrafficSplit
from servable.errors import Code, ServableError
from servable.lifecycle._states import ServableEvent, ServableState, status_text


@dataclass(frozen=True, slots=True)
class Traffic:
    """The distribution of a model's requests.

    Attributes:
        splits: Over which versions, at most one for each label.
        shadow: The version that gets copies.
    """

    splits: tuple[TrafficSplit, ...] = ()
    shadow: Shadow | None = None


_NO_TRAFFIC: Mapping[str, Traffic] = MappingProxyType({})


class ModelPublisher:
    """The manager's publisher: every change of state replaces the published state of its model.

    Safe to use from several threads; publications are sequential, in the order of the changes.
    """

    def __init__(self, publish: Callable[[Sequence[PublishedModel]], None]) -> None:
        """Start without published models.

        Args:
            publish: Atomically replaces the state of the given models.
        """
        self._publish = publish
        self._lock = threading.Lock()
        self._versions: dict[str, dict[int, PublishedVersion]] = {}
        self._labels: dict[str, Mapping[str, int]] = {}
        self._desired_labels: dict[str, Mapping[str, int]] = {}
        self._awaited: dict[str, str] = {}
        self._traffic: dict[str, Traffic] = {}

    def __call__(self, event: ServableEvent) -> None:
        """Publish a new state of one version."""
        name, version = event.id.name, event.id.version
        error = event.error
        published = PublishedVersion(
            version=version,
            state=int(event.state),
            servable=event.servable,  # type: ignore[arg-type]  # the lifecycle knows no executors
            error_code=int(Code.OK if error is None else error.code),
            error_message="" if error is None else error.message,
        )
        with self._lock:
            self._versions.setdefault(name, {})[version] = published
            if event.state is ServableState.AVAILABLE:
                self._awaited.pop(name, None)
                self._attach_labels(name)
            elif name in self._awaited:
                self._awaited[name] = _reason(event)
            self._publish([self._model(name)])

    def expect(self, names: Iterable[str]) -> None:
        """Add models that are about to have their first available version.

        Until then requests for them get UNAVAILABLE, with the reason, instead of NOT_FOUND.
        """
        with self._lock:
            expected = [name for name in names if name not in self._versions]
            for name in expected:
                self._awaited[name] = f"Model {name} is not available yet: no version was found"
            self._publish([self._model(name) for name in expected])

    def explain(self, name: str, problem: ServableError) -> None:
        """Set the reason why a model has no version; only used until it has had one."""
        with self._lock:
            if name in self._awaited and not self._versions.get(name):
                self._awaited[name] = (
                    f"Model {name} is not available yet: no version was found: {problem.message}"
                )
                self._publish([self._model(name)])

    def forget_expected(self, names: Iterable[str]) -> None:
        """Remove models that are no longer configured from the expected ones."""
        with self._lock:
            forgotten = [name for name in names if self._awaited.pop(name, None) is not None]
            if forgotten:
                self._publish([self._model(name) for name in forgotten])

    def set_labels(
        self,
        labels: Mapping[str, Mapping[str, int]],
        when_available: Collection[str] = (),
        traffic: Mapping[str, Traffic] = _NO_TRAFFIC,
    ) -> None:
        """Atomically replace the labels, the splits and the shadows of all models.

        Args:
            labels: Version numbers by label, by model.
            when_available: The models whose labels are desired states: each label attaches when its version becomes
                available, and stays where it is until then.
            traffic: The distribution of requests, by model.
        """
        with self._lock:
            before, self._labels = self._labels, dict(labels)
            self._desired_labels = {name: labels.get(name, {}) for name in when_available}
            for name, desired in self._desired_labels.items():
                attached = before.get(name, {})
                self._labels[name] = {k: v for k, v in attached.items() if k in desired}
                self._attach_labels(name)
            labels_of, traffic_before = self._labels, self._traffic
            self._traffic = dict(traffic)
            changed = [
                name
                for name in sorted({*before, *labels_of, *traffic_before, *traffic})
                if before.get(name, {}) != labels_of.get(name, {})
                or traffic_before.get(name) != traffic.get(name)
            ]
            if changed:
                self._publish([self._model(name) for name in changed])

    def _attach_labels(self, name: str) -> None:
        desired = self._desired_labels.get(name)
        if desired is None:
            return
        versions = self._versions.get(name, {})
        available = {number for number, version in versions.items() if version.servable is not None}
        attached = {label: number for label, number in desired.items() if number in available}
        self._labels[name] = {**self._labels.get(name, {}), **attached}

    def _model(self, name: str) -> PublishedModel:
        traffic = self._traffic.get(name, Traffic())
        return PublishedModel(
            name=name,
            versions=tuple(self._versions.get(name, {}).values()),
            labels=dict(self._labels.get(name, {})),
            unavailable_reason=self._awaited.get(name),
            splits=traffic.splits,
            shadow=traffic.shadow,
        )


def _reason(event: ServableEvent) -> str:
    text = f"Model {event.id.name} is not available yet: version {event.id.version}"
    if event.error is not None:
        return f"{text} failed to load: {status_text(event.error)}"
    return f"{text} is {'gone' if event.state is ServableState.END else 'loading'}"
