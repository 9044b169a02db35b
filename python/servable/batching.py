"""Joins calls of a Python function into batches: the server's scheduler, without a server.

```python
import numpy as np
from servable.batching import BatchingParameters, BatchScheduler

def embed(tokens: np.ndarray) -> np.ndarray:  # one row of tokens, one row of the result
    return np.asarray(model(tokens))

with BatchScheduler(embed, BatchingParameters(max_batch_size=64)) as batched_embed:
    vectors = batched_embed(tokens)                 # from as many threads as you like
    vectors = await batched_embed.run_async(tokens) # or from asyncio
```

Axis 0 of every array is the batch. The arrays of several calls are concatenated along it, the function is called once,
and each call gets its rows of the results.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

try:
    import numpy as _numpy  # noqa: F401 - here, so that one module alone explains a missing NumPy
except ImportError as error:
    raise ImportError(
        "servable.batching needs NumPy; install it with `pip install 'servable[python]'`"
    ) from error

from servable._server.border.gateway import BatchQueue, BatchThreads, BatchTicket, Completions
from servable._server.config.batching import BatchingParameters, usable
from servable.errors import (
    BackendError,
    FailedPreconditionError,
    InvalidInputError,
    ServableError,
)
from servable.loaders._arrays import array_of, elements_of

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["BatchScheduler", "BatchingParameters", "Priority"]

_log = logging.getLogger(__name__)

Priority = Literal["high", "low"]
"""The priority of a call."""


class BatchScheduler:
    """Calls a function with the concatenated arrays of several callers.

    The function gets read-only arrays, as positional and keyword arguments just as the callers pass them. It returns an
    array, a tuple or list of arrays, or a dict of arrays by name. Each returned array has as many rows (the size of
    axis 0) as the arguments.

    The function is called on threads of the scheduler or, where a batch can begin at once, on the thread of a call
    without a time-out. If `num_batch_threads` is more than 1, calls of it may overlap. It must neither keep its
    arguments' memory nor call the scheduler.

    An exception of the function reaches every caller of that batch: a `ServableError` unchanged, anything else as a
    `BackendError` with its text. If the function is repeatable, it is called again with fewer of the calls, until only
    those fail that cause the error.

    Calls share a batch if they pass the same number of arrays, under the same names, of the same dtypes and, apart from
    axis 0, of the same shapes. With `pad_variable_length_inputs` the shapes may differ. Strings arrive as arrays of
    `bytes`.

    Usable from any number of threads and event loops concurrently, but only in the process that created it.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        parameters: BatchingParameters | None = None,
        *,
        repeatable: bool = False,
    ) -> None:
        """Start the threads.

        Args:
            function: The function to batch.
            parameters: How long calls wait for each other, and how batches are limited. By default an idle thread takes
                all waiting calls at once, so that batches form only while all threads are busy.
            repeatable: Whether the function has no side effects, so that it may be called again for the calls of a
                failed batch.

        Raises:
            ConfigError: The parameters cannot be used.
        """
        self._function = function
        self._is_repeatable = repeatable
        self._parameters = usable(parameters or BatchingParameters())
        self._threads = BatchThreads(self._parameters)
        self._queues: dict[_Layout, tuple[_Batches, BatchQueue]] = {}
        self._lock = threading.Lock()
        self._process = os.getpid()
        # At exit too: the threads need an interpreter for the batches that still run.
        self._finalizer = weakref.finalize(self, self._threads.close)

    def __call__(
        self,
        *arrays: Any,
        timeout_seconds: float | None = None,
        priority: Priority = "high",
        **named: Any,
    ) -> Any:
        """Call the function in a batch with concurrent calls, and wait for the result.

        Args:
            arrays: Positional arguments of the function, as arrays or values that NumPy converts; at least one in all.
            timeout_seconds: How long to wait at most. A call that has not begun by then is dropped.
            priority: `"low"` makes the call wait for calls of high priority, as `mixed_priority_batching_policy` says,
                but for no longer than half a minute.
            named: Keyword arguments of the function; they cannot have the names of the two above.

        Returns:
            The result of the function, with the rows of this call, as read-only arrays.

        Raises:
            InvalidInputError: The arrays have no common axis 0, or more rows than a batch takes, or the priority is
                unknown.
            UnavailableError: The queue is full, or the scheduler is closed.
            DeadlineExceededError: The time-out has passed.
            FailedPreconditionError: The process was forked from the one that created the scheduler.
            ServableError: Raised by the function.
        """
        batches, queue, elements = self._queue(arrays, named)
        return batches.result(queue.run(elements, timeout_seconds, priority))

    async def run_async(self, *arrays: Any, priority: Priority = "high", **named: Any) -> Any:
        """Like a call, without blocking the event loop.

        A cancelled call, for example by `asyncio.timeout`, is dropped if it has not begun.
        """
        batches, queue, elements = self._queue(arrays, named)
        completions = _Completions.of_running_loop()
        return batches.result(await completions.wait_for(queue, elements, priority))

    def close(self) -> None:
        """Run the waiting calls, refuse later ones, end the threads; returns when that is done."""
        self._finalizer()

    def __enter__(self) -> Self:
        """Close the scheduler at the end of the block."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the scheduler."""
        self.close()

    def _queue(
        self, arrays: tuple[Any, ...], named: Mapping[str, Any]
    ) -> tuple[_Batches, BatchQueue, list[_Elements]]:
        if self._process != os.getpid():
            raise FailedPreconditionError(
                f"this process was forked from {self._process}, whose threads run the batches; "
                "make a scheduler in each process"
            )
        names = tuple(sorted(named))
        try:
            elements = [elements_of(f"argument {n}", array) for n, array in enumerate(arrays)]
            elements += [elements_of(f'argument "{name}"', named[name]) for name in names]
        except ServableError as error:
            raise InvalidInputError(error.message) from error
        layout = _Layout(len(arrays), names, tuple(number for number, _, _ in elements))
        found = self._queues.get(layout)
        if found is None:
            with self._lock:
                found = self._queues.get(layout)
                if found is None:
                    batches = _Batches(self._function, layout)
                    queue = self._threads.queue(self._parameters, batches.run, self._is_repeatable)
                    found = self._queues[layout] = (batches, queue)
        return *found, elements


_Elements = tuple[int, tuple[int, ...], Any]
"""An array in the border's form: the number of its dtype, its shape, its elements."""


class _Layout(NamedTuple):
    """The properties that calls must share to be in one queue."""

    positional: int
    names: tuple[str, ...]
    dtypes: tuple[int, ...]


class _Form(NamedTuple):
    """The form of a function's result: arrays by name, a tuple of arrays, or a single array."""

    names: tuple[str, ...] | None
    is_single: bool
    dtypes: tuple[int, ...]


class _Batches:
    """Runs batches of calls with one layout."""

    def __init__(self, function: Callable[..., Any], layout: _Layout) -> None:
        self._function = function
        self._layout = layout
        self._form: _Form | None = None

    def run(self, lent: list[Any], timeout: float | None) -> list[_Elements]:
        """Run one batch, on any thread."""
        del timeout  # the function takes no deadline
        layout = self._layout
        arrays = [array_of(*pair) for pair in zip(lent, layout.dtypes, strict=True)]
        named = dict(zip(layout.names, arrays[layout.positional :], strict=True))
        try:
            returned = self._function(*arrays[: layout.positional], **named)
        except ServableError:
            raise
        except Exception:
            _log.exception("A batched function failed")
            raise
        names: tuple[str, ...] | None = None
        if isinstance(returned, Mapping):
            names = tuple(sorted(returned))
            values = [returned[name] for name in names]
        else:
            values = list(returned) if isinstance(returned, tuple | list) else [returned]
        elements = [elements_of(f"result {n}", value) for n, value in enumerate(values)]
        is_single = not isinstance(returned, Mapping | tuple | list)
        form = _Form(names, is_single, tuple(number for number, _, _ in elements))
        if self._form is None:
            self._form = form
        if form != self._form:
            raise BackendError(
                f"A batched function returns the same kind of result each time: got {form}, "
                f"and before that {self._form}"
            )
        return elements

    def result(self, lent: list[Any]) -> Any:
        """The rows of one call, in the form of the function's result."""
        form = self._form
        assert form is not None, "there is no answer before a batch was run"
        arrays = [array_of(*pair) for pair in zip(lent, form.dtypes, strict=True)]
        if form.names is not None:
            return dict(zip(form.names, arrays, strict=True))
        return arrays[0] if form.is_single else tuple(arrays)


class _Completions:
    """The pending calls of one event loop, of all schedulers."""

    _of_loops: ClassVar[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Completions]] = (
        weakref.WeakKeyDictionary()
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._completions = Completions()
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[asyncio.Future[list[Any]], BatchTicket]] = {}
        loop.add_reader(self._completions.fileno(), self._deliver)

    @classmethod
    def of_running_loop(cls) -> _Completions:
        loop = asyncio.get_running_loop()
        found = cls._of_loops.get(loop)
        if found is None:
            found = cls._of_loops[loop] = cls(loop)
        return found

    async def wait_for(
        self, queue: BatchQueue, elements: list[_Elements], priority: Priority
    ) -> list[Any]:
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        number = next(self._numbers)
        ticket = queue.submit(elements, self._completions, number, priority)
        self._waiting[number] = (future, ticket)
        try:
            return await future
        finally:
            # If the caller was cancelled, this drops the ticket, which withdraws the call.
            self._waiting.pop(number, None)

    def _deliver(self) -> None:
        for number in self._completions.take():
            future, ticket = self._waiting.pop(number, (None, None))
            if future is None or ticket is None or future.done():
                continue
            try:
                future.set_result(ticket.result())
            except ServableError as error:
                future.set_exception(error)
