from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from servable.batching import BatchingParameters, BatchScheduler
from servable.errors import (
    BackendError,
    ConfigError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidInputError,
    UnavailableError,
)

Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.usefixtures("real_extension")


class Held:
    """Doubles its argument; its first batch blocks until it is released."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.values: list[list[float]] = []
        self.has_begun = threading.Event()
        self.goes_on = threading.Event()

    def __call__(self, x: Array) -> Array:
        self.batches.append(len(x))
        self.values.append(x.tolist())
        self.has_begun.set()
        assert self.goes_on.wait(10)
        return x * 2


@contextmanager
def held(**parameters: Any) -> Iterator[tuple[BatchScheduler, Held, ThreadPoolExecutor]]:
    """A scheduler whose only thread is busy with a batch of one row."""
    function = Held()
    with (
        BatchScheduler(function, BatchingParameters(num_batch_threads=1, **parameters)) as batched,
        ThreadPoolExecutor(16) as pool,
    ):
        try:
            pool.submit(batched, np.zeros(1))
            assert function.has_begun.wait(10)
            yield batched, function, pool
        finally:
            function.goes_on.set()


def test_threads_share_a_batch_and_get_their_own_rows() -> None:
    batches: list[int] = []

    def double(x: Array) -> Array:
        batches.append(len(x))
        return x * 2

    # Only the size can close the batch within the test's time-out.
    parameters = BatchingParameters(max_batch_size=24, batch_timeout_micros=60_000_000)
    with BatchScheduler(double, parameters) as batched, ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(batched, np.arange(n, n + 3.0)) for n in range(8)]
        for n, call in enumerate(calls):
            np.testing.assert_array_equal(call.result(10), np.arange(n, n + 3.0) * 2)
    assert batches == [24]


def test_batches_form_while_the_threads_are_busy() -> None:
    async def ask(batched: BatchScheduler, function: Held) -> list[Array]:
        calls = [asyncio.ensure_future(batched.run_async([n])) for n in range(8)]
        await asyncio.sleep(0)  # now they are in the queue
        function.goes_on.set()
        return await asyncio.gather(*calls)

    with held() as (batched, function, _):
        results = asyncio.run(ask(batched, function))
        assert [result.tolist() for result in results] == [[2 * n] for n in range(8)]
    assert function.batches == [1, 8]


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (lambda x, y: x + y, np.array([11.0, 22.0])),
        (lambda x, y: (x, y), (np.array([1.0, 2.0]), np.array([10.0, 20.0]))),
        (lambda x, y: [y], (np.array([10.0, 20.0]),)),
        (lambda x, y: {"z": y, "a": x}, {"a": np.array([1.0, 2.0]), "z": np.array([10.0, 20.0])}),
    ],
)
def test_arguments_and_results_have_the_form_of_the_function(
    function: Callable[..., Any], wanted: Any
) -> None:
    with BatchScheduler(function) as batched:
        for result in (
            batched([1.0, 2.0], np.array([10.0, 20.0])),
            batched(np.array([1.0, 2.0]), y=(10.0, 20.0)),
            asyncio.run(batched.run_async(y=[10.0, 20.0], x=[1.0, 2.0])),
        ):
            assert type(result) is type(wanted)
            np.testing.assert_equal(result, wanted)


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1, 2], [3, 4]], np.int8),
        np.array([1.5], np.float16),
        np.array([True, False]),
        np.array([1 + 2j]),
        np.array([b"a", b"\0\xff"], object),
        np.arange(12).reshape(3, 4).T,
        np.array([1, 2], ">i4"),
        np.zeros((2, 0, 3)),
    ],
)
def test_every_dtype_and_layout_goes_through(array: Array) -> None:
    with BatchScheduler(lambda x: x) as batched:
        result = batched(array)
    np.testing.assert_array_equal(result, array)
    assert result.dtype == array.dtype.newbyteorder("=")
    assert not result.flags.writeable


def test_text_arrives_as_bytes() -> None:
    with BatchScheduler(lambda x: x) as batched:
        assert batched(["a", "é"]).tolist() == [b"a", "é".encode()]


def test_calls_of_other_dtypes_and_names_never_mix() -> None:
    seen: list[str] = []

    def function(**named: Array) -> Array:
        ((name, array),) = named.items()
        seen.append(f"{name} {array.dtype}")
        return array

    with BatchScheduler(function) as batched, ThreadPoolExecutor(8) as pool:
        kinds = [("a", np.int32), ("a", np.int64), ("b", np.int32)] * 5
        calls = [pool.submit(batched, **{name: np.zeros(2, dtype)}) for name, dtype in kinds]
        assert [call.result(10).dtype for call in calls] == [dtype for _, dtype in kinds]
    assert set(seen) == {"a int32", "a int64", "b int32"}


def test_the_parameters_are_those_of_the_server() -> None:
    async def fill(batched: BatchScheduler, function: Held) -> Array:
        waits = asyncio.ensure_future(batched.run_async(np.ones(3)))
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError, match=r"queue .* is full; currently 1 batches"):
            await batched.run_async(np.zeros(3))
        function.goes_on.set()
        return await waits

    parameters = {"max_batch_size": 4, "max_enqueued_batches": 1, "allowed_batch_sizes": (2, 4)}
    with held(**parameters) as (batched, function, _):
        with pytest.raises(InvalidInputError, match=r"^Task size 5 is larger than maximum .* 4$"):
            batched(np.zeros(5))
        assert asyncio.run(fill(batched, function)).tolist() == [2, 2, 2]
    assert function.batches[-1] == 4, "padded to an allowed size"
    with pytest.raises(ConfigError, match="num_batch_threads must be positive; was 0"):
        BatchScheduler(len, BatchingParameters(num_batch_threads=0))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((), "must have at least one input tensor"),
        ((1.0,), "must have at least one dimension"),
        ((np.zeros(2), np.zeros(3)), "must have equal 0th-dimension size"),
        ((np.array(["2020-01-01"], "M8[D]"),), "argument 0: got dtype datetime64"),
        ((np.array([{}], object),), "argument 0: got an element of type dict, want bytes"),
    ],
)
def test_arrays_that_cannot_be_batched_are_refused(arrays: tuple[Any, ...], message: str) -> None:
    with BatchScheduler(lambda *arrays: arrays) as batched:
        with pytest.raises(InvalidInputError, match=message):
            batched(*arrays)
        with pytest.raises(InvalidInputError, match=message):
            asyncio.run(batched.run_async(*arrays))


def test_exceptions_of_the_function_reach_its_callers(caplog: pytest.LogCaptureFixture) -> None:
    def function(x: Array) -> Array:
        if x[0] < 0:
            raise ValueError("negative")
        if x[0] == 0:
            raise FailedPreconditionError("not now")
        return x

    with BatchScheduler(function) as batched:
        with pytest.raises(BackendError, match="ValueError: negative"):
            batched([-1])
        with pytest.raises(FailedPreconditionError, match="not now"):
            asyncio.run(batched.run_async([0]))
        assert batched([1]).tolist() == [1]
    assert "A batched function failed" in caplog.text


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.sum(), "Batched output tensor has 0 dimensions"),
        (lambda x: x[:1], "Batched output tensor's 0th dimension does not equal the sum"),
        (lambda x: None, "result 0: got an element of type NoneType"),
    ],
)
def test_results_without_the_rows_are_refused(function: Callable[..., Any], message: str) -> None:
    refused = pytest.raises((FailedPreconditionError, BackendError), match=message)
    with BatchScheduler(function) as batched, refused:
        batched([1.0, 2.0])


def test_results_of_one_function_have_one_form() -> None:
    with BatchScheduler(lambda x: x if x[0] else (x, x)) as batched:
        batched([1])
        with pytest.raises(BackendError, match="the same kind of result each time"):
            batched([0])


def test_a_call_waits_no_longer_than_it_wants_to() -> None:
    with held() as (batched, function, _):
        with pytest.raises(DeadlineExceededError):
            batched([1.0], timeout_seconds=0.02)
        function.goes_on.set()
    assert function.batches == [1], "nobody wanted the second batch any more"


def test_a_late_call_gets_a_deadline_error_from_either_thread() -> None:
    # The batch's thread starts shortly before the call's deadline, or shortly after it.
    parameters = BatchingParameters(batch_timeout_micros=300, num_batch_threads=1)
    with BatchScheduler(lambda x: x, parameters) as batched:
        for _ in range(300):
            with contextlib.suppress(DeadlineExceededError):
                batched([1.0], timeout_seconds=0.000_28)


def test_a_cancelled_call_is_not_run() -> None:
    async def give_up(batched: BatchScheduler) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(batched.run_async([1.0]), 0.02)

    with held() as (batched, function, _):
        asyncio.run(give_up(batched))
        function.goes_on.set()
    assert function.batches == [1]


def test_many_calls_of_one_event_loop_are_under_way_at_once() -> None:
    batches: list[int] = []

    def function(x: Array) -> Array:
        batches.append(len(x))
        return x + 1

    async def ask(batched: BatchScheduler) -> list[Array]:
        return await asyncio.gather(*(batched.run_async([n]) for n in range(500)))

    parameters = BatchingParameters(max_batch_size=50, batch_timeout_micros=60_000_000)
    with BatchScheduler(function, parameters) as batched:
        for _ in range(2):  # each in a new loop
            results = asyncio.run(ask(batched))
            assert [result.tolist() for result in results] == [[n + 1] for n in range(500)]
    assert batches == [50] * 20


def test_closing_answers_waiting_calls_and_refuses_later_ones() -> None:
    async def close(batched: BatchScheduler, function: Held) -> Array:
        waits = asyncio.ensure_future(batched.run_async(np.ones(2)))
        await asyncio.sleep(0)
        closing = asyncio.to_thread(batched.close)
        function.goes_on.set()
        await closing
        return await waits

    with held() as (batched, function, _):
        assert asyncio.run(close(batched, function)).tolist() == [2, 2]
        for refused in (np.ones(2), np.ones(2, np.int8)):  # the second one has no queue yet
            with pytest.raises(UnavailableError, match="closed"):
                batched(refused)
        batched.close()


def test_an_unreferenced_scheduler_ends_its_threads() -> None:
    def function(x: Array) -> Array:
        return x

    weak = weakref.ref(function)
    batched = BatchScheduler(function, BatchingParameters(thread_pool_name="forgotten"))
    batched([1])
    del batched, function
    gc.collect()
    assert weak() is None


def test_a_program_may_end_without_closing_anything() -> None:
    program = (
        "from servable.batching import BatchScheduler\n"
        "batched = BatchScheduler(lambda x: x * 2)\n"
        "print(batched([21]).tolist())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[42]\n", "")


def test_a_forked_process_is_told_that_it_has_no_threads() -> None:
    program = (
        "import os, sys\n"
        "from servable.batching import BatchScheduler, BatchingParameters\n"
        "batched = BatchScheduler(lambda x: x * 2, BatchingParameters(batch_timeout_micros=1))\n"
        "print(batched([21]).tolist(), flush=True)\n"
        "child = os.fork()\n"
        "try:\n"
        "    batched([4])\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, 'make a scheduler in each process' in str(error))\n"
        "if child:\n"
        "    print(os.waitpid(child, 0)[1])\n"
    )
    # Later versions of Python warn about the fork itself.
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    found = "[42]\nFailedPreconditionError True\n0\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, found, "")


def test_a_call_that_can_begin_at_once_runs_where_it_is_made() -> None:
    threads: list[int] = []

    def function(x: Array) -> Array:
        threads.append(threading.get_ident())
        return x

    with BatchScheduler(function) as batched:
        batched([1])
        batched([1], timeout_seconds=10)
    here = threading.get_ident()
    assert [thread == here for thread in threads] == [True, False], "who gives up cannot run it"


@pytest.mark.parametrize("time", ["", ", timeout_seconds=60"])
def test_a_program_can_be_interrupted_on_any_thread_of_its_batch(time: str) -> None:
    program = (
        "import signal, threading\n"
        "from servable.batching import BatchScheduler\n"
        # A background process may inherit SIGINT as ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "go_on = threading.Event()\n"
        "def interrupt(x):\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    go_on.wait()\n"
        "    return x\n"
        "with BatchScheduler(interrupt) as batched:\n"
        "    try:\n"
        f"        batched([1]{time})\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted')\n"
        "    go_on.set()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "interrupted\n", "")


@pytest.mark.parametrize(
    ("policy", "batches"),
    [
        ("low_priority_padding_with_max_batch_size", [{1, 2, -1, -2}, {-3}]),
        ("low_priority_padding_with_next_allowed_batch_size", [{1, 2, -1}, {-2, -3}]),
        ("priority_isolation", [{1, 2}, {-1, -2, -3}]),
        ("priority_merge", [{1, 2, -1, -2}, {-3}]),
    ],
)
def test_calls_of_low_priority_wait_as_the_policy_says(
    policy: str, batches: list[set[float]]
) -> None:
    async def ask(batched: BatchScheduler, function: Held) -> list[Array]:
        low = [batched.run_async([n], priority="low") for n in (-1, -2, -3)]
        calls = [
            asyncio.ensure_future(call) for call in (*low, *map(batched.run_async, ([1], [2])))
        ]
        await asyncio.sleep(0)  # now they are in the queue, those of low priority first
        function.goes_on.set()
        return await asyncio.gather(*calls)

    parameters = {"max_batch_size": 4, "allowed_batch_sizes": (3, 4)}
    with held(**parameters, mixed_priority_batching_policy=policy) as (batched, function, _):
        results = asyncio.run(ask(batched, function))
        assert [result.tolist() for result in results] == [[-2], [-4], [-6], [2], [4]]
    assert [set(values) for values in function.values[1:]] == batches


@pytest.mark.parametrize("timeout_seconds", [None, 60])
def test_calls_of_threads_have_a_priority_too(timeout_seconds: float | None) -> None:
    batches: list[int] = []

    def function(x: Array) -> Array:
        batches.append(len(x))
        return x

    # Calls of high priority would wait for four rows.
    parameters = BatchingParameters(
        4, batch_timeout_micros=60_000_000, low_priority_max_batch_size=2
    )
    with BatchScheduler(function, parameters) as batched, ThreadPoolExecutor(2) as pool:
        calls = [
            pool.submit(batched, [n], timeout_seconds=timeout_seconds, priority="low")
            for n in range(2)
        ]
        assert [call.result(10).tolist() for call in calls] == [[0], [1]]
    assert batches == [2]


def test_a_priority_that_is_none_is_refused() -> None:
    with BatchScheduler(lambda x: x) as batched:
        refused = r'priority is "urgent"; it can be "high" or "low"'
        with pytest.raises(InvalidInputError, match=refused):
            batched([1], priority="urgent")  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match=refused):
            asyncio.run(batched.run_async([1], priority="urgent"))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="priority"):
            batched([1], priority=np.ones(1))  # type: ignore[arg-type]
