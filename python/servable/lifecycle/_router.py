"""Distributes the streams of one source over several outputs (docs/spec/lifecycle.md §4).

A router is a target with several outputs, each of which is a source. It chooses by the name of the stream, so all
versions of a stream take the same output. The last output is the default, for streams without a route.
"""

from __future__ import annotations

import abc
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from servable.errors import BackendError, InvalidInputError, ServableError
from servable.lifecycle._ids import ServableId
from servable.lifecycle._source import AspiredVersion, Source, SourceAdapter, Target

T = TypeVar("T")

_log = logging.getLogger(__name__)


class SourceRouter(abc.ABC, Generic[T]):
    """Passes each list to one of its outputs.

    Subclasses implement `route`. Safe to use from several threads.
    """

    def __init__(self, num_outputs: int) -> None:
        """Make a router with unconnected outputs.

        Args:
            num_outputs: The number of outputs, the default one included; at least 1.
        """
        if num_outputs < 1:
            raise ValueError(f"a router needs an output at least; got {num_outputs}")
        self._outputs: tuple[_Output[T], ...] = tuple(_Output() for _ in range(num_outputs))

    @property
    def outputs(self) -> Sequence[Source[T]]:
        """The outputs, the default one last; connect all of them before the input."""
        return self._outputs

    @property
    def default_output(self) -> int:
        """The index of the output for streams without a route: the last one."""
        return len(self._outputs) - 1

    @abc.abstractmethod
    def route(self, name: str) -> int:
        """The index of the output for a stream, from 0.

        Called for every list, from any thread.
        """

    def set_aspired_versions(self, name: str, versions: Sequence[AspiredVersion[T]]) -> None:
        """Pass the list to the output of its stream."""
        self._outputs[self.route(name)].emit(name, versions)

    def _default_route(self, name: str) -> int:
        _log.info(
            "Routing servable(s) from stream %s to default output port %d",
            name,
            self.default_output,
        )
        return self.default_output


class StaticSourceRouter(SourceRouter[T]):
    """Routes by substrings of names, which never change.

    A stream goes to the output of the first substring that its name contains.
    """

    def __init__(self, substrings: Sequence[str]) -> None:
        """Make an output for each substring, and the default one."""
        super().__init__(len(substrings) + 1)
        self._substrings = tuple(substrings)

    def route(self, name: str) -> int:
        """The output of the first substring that the name contains."""
        for index, substring in enumerate(self._substrings):
            if substring in name:
                return index
        return self._default_route(name)


class DynamicSourceRouter(SourceRouter[T]):
    """Routes by a table of names, which may be replaced at any time.

    A changed route applies to future lists. The former output of a stream gets no list, because both outputs may lead
    to the same manager.
    """

    def __init__(self, num_outputs: int, routes: Mapping[str, int] | None = None) -> None:
        """Make a router with its first table.

        Args:
            num_outputs: The number of outputs, the default one included.
            routes: Indexes of outputs by name of stream.

        Raises:
            InvalidInputError: A route leads to the default output, or to one that does not exist.
        """
        super().__init__(num_outputs)
        self._lock = threading.Lock()
        self._routes: Mapping[str, int] = {}
        self.update_routes(routes or {})

    @property
    def routes(self) -> Mapping[str, int]:
        """The current table."""
        with self._lock:
            return dict(self._routes)

    def update_routes(self, routes: Mapping[str, int]) -> None:
        """Replace the whole table atomically.

        Raises:
            InvalidInputError: A route leads to the default output, or to one that does not exist. The old table stays.
        """
        for output in routes.values():
            if not 0 <= output < len(self._outputs):
                raise InvalidInputError(f"Port number out of range: {output}")
            if output == self.default_output:
                raise InvalidInputError(
                    "Last port cannot be used in route map, since it's reserved for the default "
                    "route"
                )
        with self._lock:
            self._routes = dict(routes)

    def route(self, name: str) -> int:
        """The output in the table."""
        with self._lock:
            output = self._routes.get(name)
        return self._default_route(name) if output is None else output


class ErrorSourceAdapter(SourceAdapter[Any, Any]):
    """Turns every item into an error; usually connected to a default output."""

    def __init__(self, error: ServableError | None = None) -> None:
        """Choose the error.

        Args:
            error: The error of every version; by default that its platform is unknown.
        """
        super().__init__()
        self._error = error or BackendError("No platform found for model")

    def adapt(self, servable_id: ServableId, item: Any) -> Any:
        """Raise the error."""
        del item
        _log.info("Injecting error for servable %s: %s", servable_id, self._error)
        raise type(self._error)(self._error.message, code=self._error.code)


class _Output(Generic[T]):
    """One output: a source that stores its target."""

    def __init__(self) -> None:
        self._target: Target[T] | None = None

    def connect(self, target: Target[T]) -> None:
        if self._target is not None:
            raise RuntimeError("an output of a router has one target, and it is already connected")
        self._target = target

    def emit(self, name: str, versions: Sequence[AspiredVersion[T]]) -> None:
        if self._target is None:
            raise RuntimeError("connect the outputs of a source router before its input")
        self._target.set_aspired_versions(name, versions)
