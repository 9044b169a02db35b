"""Who finds versions, and how the set they want travels to the manager (docs/spec/lifecycle.md §2).

A call of `set_aspired_versions(name, versions)` states everything that is wanted of one stream.
It replaces the previous call for that name: what is missing is no longer wanted, and an empty list
asks to unload all of it. Streams are independent of each other, and order within a list means
nothing.
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
    """One version that somebody wants.

    Attributes:
        id: Which version.
        item: What it is made from (a path, a loader), or why there is nothing to make it from. An
            error passes through adapters unchanged and becomes the version's status.
        fingerprint: Stands for the content behind the item. A version that has failed is tried
            again when this changes. `None` says nothing about the content.
        configuration: How the version is to be loaded, compared by `==`. When it changes, the next
            attempt to load the version uses the new item; unlike new content, that hastens no
            attempt.
    """

    id: ServableId
    item: T_co | ServableError
    fingerprint: Hashable = None
    configuration: object = None


class Target(Protocol[T_contra]):
    """Takes aspired versions."""

    def set_aspired_versions(self, name: str, versions: Sequence[AspiredVersion[T_contra]]) -> None:
        """Replace what is wanted of one stream.

        May be called from any thread, also while another call is under way; returns without
        waiting for anything to be loaded.

        Args:
            name: The stream.
            versions: All that is wanted of it; every `id.name` equals `name`.
        """


class Source(Protocol[T_co]):
    """Emits aspired versions.

    An implementer calls the target only after `connect`, from whichever thread it likes. It sends
    complete lists, and may send the same list again and again.
    """

    def connect(self, target: Target[T_co]) -> None:
        """Say where the versions go, once, before anything is emitted."""


class SourceAdapter(abc.ABC, Generic[In, Out]):
    """Turns the items of one source into those of another, such as paths into loaders.

    Subclasses write `adapt`; everything else is here. One adapter may serve any number of streams.
    """

    def __init__(self) -> None:
        self._target: Target[Out] | None = None

    @abc.abstractmethod
    def adapt(self, servable_id: ServableId, item: In) -> Out:
        """Make the outgoing item.

        Called for every version of every list, so it should only describe the work, not do it.

        Raises:
            ServableError: There is no outgoing item; the error travels on in its place.
        """

    def connect(self, target: Target[Out]) -> None:
        """Say where the adapted versions go, once, before the source is connected."""
        if self._target is not None:
            raise RuntimeError("a source adapter has one target, and it is already connected")
        self._target = target

    def set_aspired_versions(self, name: str, versions: Sequence[AspiredVersion[In]]) -> None:
        """Adapt each version by itself and pass the list on."""
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
            except Exception as error:  # an adapter is the loader's border: one bad item stays one
                item = BackendError(f"{type(error).__name__}: {error}")
        return AspiredVersion(version.id, item, version.fingerprint, version.configuration)
