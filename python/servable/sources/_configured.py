"""Attaches the configuration of a model to the paths of its versions.

A loader therefore needs nothing but the item that it is made from. When a configuration changes, the aspired versions
are sent again at once with the new one. The next attempt to load one of them uses it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from servable.errors import ServableError
from servable.lifecycle._source import AspiredVersion, Target

if TYPE_CHECKING:
    from servable._server.config.models import ModelConfig


@dataclass(frozen=True, slots=True)
class VersionDirectory:
    """The item from which a version is loaded.

    Attributes:
        path: Its directory, or the URL of it.
        model: The configuration of its model.
    """

    path: str
    model: ModelConfig


class ConfiguredVersions:
    """A target for the paths of versions, which passes version directories on.

    Safe to use from several threads.
    """

    def __init__(self) -> None:
        """Start without models."""
        self._lock = threading.Lock()
        self._models: Mapping[str, ModelConfig] = {}
        self._aspired: dict[str, Sequence[AspiredVersion[str]]] = {}
        self._target: Target[VersionDirectory] | None = None

    def connect(self, target: Target[VersionDirectory]) -> None:
        """Set the target of the version directories; called once, before the source is connected."""
        if self._target is not None:
            raise RuntimeError("configured versions have one target, and it is already connected")
        self._target = target

    def set_aspired_versions(self, name: str, versions: Sequence[AspiredVersion[str]]) -> None:
        """Pass the list on; see `Target`.

        A list for a model that is not configured is dropped unless it is empty: it was sent before the model was
        removed, and an empty list follows.
        """
        with self._lock:
            if name in self._models:
                self._aspired[name] = versions
            if name in self._models or not versions:
                self._send(name)

    def update(self, models: Iterable[ModelConfig]) -> None:
        """Replace the configuration.

        Versions below a former base path are not sent with the new configuration: the source has not yet looked there.
        """
        with self._lock:
            before, self._models = self._models, {model.name: model for model in models}
            for name in [*self._aspired]:
                old, new = before[name], self._models.get(name)
                if new is None or new.base_path != old.base_path:
                    del self._aspired[name]
                elif new != old:
                    self._send(name)

    def _send(self, name: str) -> None:
        if self._target is None:
            return
        self._target.set_aspired_versions(
            name,
            [
                self._configured(version, self._models[name])
                for version in self._aspired.get(name, ())
            ],
        )

    @staticmethod
    def _configured(
        version: AspiredVersion[str], model: ModelConfig
    ) -> AspiredVersion[VersionDirectory]:
        item = version.item
        return AspiredVersion(
            version.id,
            item if isinstance(item, ServableError) else VersionDirectory(item, model),
            version.fingerprint,
            model,
        )
