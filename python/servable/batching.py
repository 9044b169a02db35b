"""Joins calls of a Python function into batches: the scheduler of the server, without a server.

```python
import numpy as np
from servable.batching import BatchingParameters, BatchScheduler

def embed(tokens: np.ndarray) -> np.ndarray:  # one row of tokens, one row of the result
    return np.asarray(model(tokens))

with BatchScheduler(embed, BatchingParameters(max_batch_size=64)) as batched_embed:
    vectors = batched_embed(tokens)                 # from as many threads as you like
    vectors = await batched_embed.run_async(tokens) # or from asyncio
```

Axis 0 of every array is the batch: what calls pass is joined along it, the function is called once,
and each call gets the rows of the results that are its own.
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
    import numpy as _numpy  # noqa: F401 - here, so that no module below has to say this
except ImportError as error:
    raise ImportError(
        "servable.batching needs NumPy; install it with `pip install 'servable[python]'`"
    ) from error

from servable._server.config.batching import BatchingParameters, usable
from servable._server.gateway import BatchQueue, BatchThreads, BatchTicket, Completions
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
"""How much it matters that a call is answered soon."""


class BatchScheduler:
    """Calls a function with the arrays of several callers joined.

    The function gets arrays, read-only, as positional and keyword arguments just as the callers
    pass them, and returns an array, a tuple or list of arrays, or a dict of arrays by name; each has
    as many rows, that is the size of axis 0, as the arguments. It is called on threads of the
    scheduler or, where a batch can begin at once, on that of a call without a time-out; from several
    at once if `num_batch_threads` is more than 1. It must neither keep its arguments' memory nor
    call the scheduler. What it raises reaches every caller of that batch:
    a `ServableError` as it is, anything else as a `BackendError` with its text. If it is repeatable,
    it is called again with fewer of the calls, until only those fail that cause the error.

    Calls share a batch if they pass the same number of arrays, under the same names, of the same
    dtypes and, apart from axis 0, of the same shapes; the last of these does not matter with
    `pad_variable_length_inputs`. Strings arrive as arrays of `bytes`.

    Usable from any number of threads and event loops at once, of the process that has made it.
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
            function: What is called.
            parameters: How calls wait for each other; without any, a free thread takes what is
                there at once, so that batches form only while all threads are busy.
            repeatable: Whether the function has no effects but what it returns, so that it may be
                called again for the calls of a batch that failed.

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
        # At exit too: the threads need an interpreter for what they still run.
        self._finalizer = weakref.finalize(self, self._threads.close)

    def __call__(
        self,
        *arrays: Any,
        timeout_seconds: float | None = None,
        priority: Priority = "high",
        **named: Any,
    ) -> Any:
        """Call the function, together with whoever else calls it now; waits for the result.

        Args:
            arrays: What the function gets, as arrays or what becomes one; at least one in all.
            timeout_seconds: How long to wait at most. A call that has not begun by then is dropped.
            priority: `"low"` lets other calls go first where calls wait for each other, in the way
                that `mixed_priority_batching_policy` says, but for no longer than half a minute.
            named: What the function gets by name; nothing that is called like the two above.

        Returns:
            What the function returns, with the rows of this call, as read-only arrays.

        Raises:
            InvalidInputError: The arrays have no common axis 0, or more rows than a batch takes; or
                the priority is none.
            UnavailableError: The queue is full, or the scheduler is closed.
            DeadlineExceededError: The time is over.
            FailedPreconditionError: The process was forked from the one that made the scheduler.
            ServableError: What the function raised.
        """
        batches, queue, elements = self._queue(arrays, named)
        return batches.result(queue.run(elements, timeout_seconds, priority))

    async def run_async(self, *arrays: Any, priority: Priority = "high", **named: Any) -> Any:
        """Do as a call does, without blocking the event loop.

        A call that is cancelled, as `asyncio.timeout` does it, is dropped if it has not begun.
        """
        batches, queue, elements = self._queue(arrays, named)
        completions = _Completions.of_running_loop()
        return batches.result(await completions.wait_for(queue, elements, priority))

    def close(self) -> None:
        """Run what waits, refuse what comes later, and end the threads; returns when that is done."""
        self._finalizer()

    def __enter__(self) -> Self:
        """Be closed at the end of the block."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close it."""
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
"""An array as the border takes it: the number of its dtype, its shape, its elements."""


class _Layout(NamedTuple):
    """What calls have in common that can share a queue."""

    positional: int
    names: tuple[str, ...]
    dtypes: tuple[int, ...]


class _Form(NamedTuple):
    """What a function returns: arrays by names, or in a tuple, or one by itself."""

    names: tuple[str, ...] | None
    is_single: bool
    dtypes: tuple[int, ...]


class _Batches:
    """Runs the batches of calls of one layout."""

    def __init__(self, function: Callable[..., Any], layout: _Layout) -> None:
        self._function = function
        self._layout = layout
        self._form: _Form | None = None

    def run(self, lent: list[Any], timeout: float | None) -> list[_Elements]:
        """Run one batch, on whatever thread."""
        del timeout  # the function has no way to be told
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
        """The rows of one call, in the form that the function returned them in."""
        form = self._form
        assert form is not None, "there is no answer before a batch was run"
        arrays = [array_of(*pair) for pair in zip(lent, form.dtypes, strict=True)]
        if form.names is not None:
            return dict(zip(form.names, arrays, strict=True))
        return arrays[0] if form.is_single else tuple(arrays)


class _Completions:
    """The calls of one event loop that wait for an answer, whatever scheduler they wait for."""

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
