"""A source with a fixed set of versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from servable.lifecycle._ids import ServableId
from servable.lifecycle._source import AspiredVersion, Target

T = TypeVar("T")


class StaticSource(Generic[T]):
    """Emits its versions once, when it is connected."""

    def __init__(self, versions: Mapping[ServableId, T]) -> None:
        """Set the versions to emit: an item for each, of one stream or of several."""
        self._versions = dict(versions)

    def connect(self, target: Target[T]) -> None:
        """Emit one list for each stream."""
        for name in sorted({servable_id.name for servable_id in self._versions}):
            target.set_aspired_versions(
                name,
                [AspiredVersion(i, item) for i, item in self._versions.items() if i.name == name],
            )
