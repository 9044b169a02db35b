"""Sources, and how the aspired set travels to the manager (docs/spec/lifecycle.md §2).

A call of `set_aspired_versions(name, versions)` states the complete aspired set of one stream. It replaces the previous
call for that name: a missing version is no longer aspired, and an empty list unloads all versions. Streams are
independent of each other. The order within a list has no meaning.
"""

from __future__ import annotations

import abc
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from servable.errors import BackendError, ServableError
from servable.lifecycle._ids import ServableId

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
T_co = TypeVar("T_co", covariant=True)
In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True)
class AspiredVersion(Generic[T_co]):
    """One version of the aspired set.

    Attributes:
        id: Which version.
        item: What it is made from (a path, a loader), or the error why there is nothing to make it from. An error
            passes through adapters unchanged and becomes the version's status.
        fingerprint: Identifies the content behind the item. A failed version is retried when this changes. `None` means
            that the content is unknown.
        configuration: How the version is to be loaded, compared by `==`. When it changes, the next attempt to load the
            version uses the new item. Unlike new content, a new configuration does not hasten an attempt.
    """

    id: ServableId
    item: T_co | ServableError
    fingerprint: Hashable = None
    configuration: object = None


class Target(Protocol[T_contra]):
    """A consumer of aspired versions."""

    def set_aspired_versions(self, name: str, versions: Sequence[AspiredVersion[T_contra]]) -> None:
        """Replace the aspired set of one stream.

        May be called from any thread, also concurrently; returns without waiting for loads.

        Args:
            name: The stream.
            versions: The complete set; every `id.name` equals `name`.
        """


class Source(Protocol[T_co]):
    """A producer of aspired versions.

    An implementer calls the target only after `connect`, from any thread. It sends complete lists, and may repeat a
    list.
    """

    def connect(self, target: Target[T_co]) -> None:
        """Set the target; called once, before anything is emitted."""


class SourceAdapter(abc.ABC, Generic[In, Out]):
    """Turns the items of one source into those of another, such as paths into loaders.

    Subclasses implement `adapt`. One adapter may serve any number of streams.
    """

    def __init__(self) -> None:
        self._target: Target[Out] | None = None

    @abc.abstractmethod
    def adapt(self, servable_id: ServableId, item: In) -> Out:
        """Make the outgoing item.

        Called for every version of every list, so it must be quick: it only describes the work.

        Raises:
            ServableError: There is no outgoing item; the error travels on in its place.
        """

    def connect(self, target: Target[Out]) -> None:
        """Set the target of the adapted versions; called once, before the source is connected."""
        if self._target is not None:
            raise RuntimeError("a source adapter has one target, and it is already connected")
        self._target = target

    def set_aspired_versions(self, name: str, versions: Sequence[AspiredVersion[In]]) -> None:
        """Adapt each version separately and pass the list on."""
        if self._target is None:
            raise RuntimeError("connect the output of a source adapter before its input")
        self._target.set_aspired_versions(name, [self._adapted(version) for version in versions])

    def _adapted(self, version: AspiredVersion[In]) -> AspiredVersion[Out]:
        item: Out | ServableError
        if isinstance(version.item, ServableError):
            item = version.item
        else:
            try:
                item = self.adapt(version.id, version.item)
            except ServableError as error:
                item = error
            except Exception as error:  # the border of loaders: one bad item fails one version
                item = BackendError(f"{type(error).__name__}: {error}")
        return AspiredVersion(version.id, item, version.fingerprint, version.configuration)
