"""Worker processes, without a server."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servable.errors import BackendError, InvalidInputError, LoadError, UnavailableError
from servable.loaders._python_channel import Channel
from servable.loaders._python_workers import WorkerPool

MODEL = """
import os
from servable.errors import InvalidInputError
from servable.signature import TensorSpec, serves

TENSOR = {"x": TensorSpec("float32", [None])}

if (directory := os.environ.get("WORKER_TEST_BROKEN")) and os.path.exists(directory):
    raise OSError("broken")

@serves(inputs=TENSOR, outputs=TENSOR)
def echo(inputs):
    return {"x": inputs["x"], "pid": os.getpid()}

@serves(inputs=TENSOR, outputs=TENSOR, name="die")
def die(inputs):
    os._exit(7)

@serves(inputs=TENSOR, outputs=TENSOR, name="refuse")
def refuse(inputs):
    raise InvalidInputError("not you")

@serves(inputs=TENSOR, outputs=TENSOR, name="raise what has no text")
def raise_unspeakable(inputs):
    class Unspeakable(Exception):
        def __str__(self):
            raise ValueError
    raise Unspeakable

@serves(inputs=TENSOR, outputs=TENSOR, name="return a lambda")
def unpicklable(inputs):
    return {"x": lambda: 0}
"""

X = np.array([1.5, np.nan], np.float32)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    monkeypatch.setenv("WORKER_TEST_BROKEN", str(tmp_path / "broken"))
    return tmp_path


@pytest.fixture
def pool(directory: Path) -> Iterator[WorkerPool]:
    made = WorkerPool("m/1", directory, 1)
    yield made
    made.close()


def children() -> set[str]:
    """The child processes that have not been reaped."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {child for task in tasks for child in task.read_text().split()}


def call(pool: WorkerPool, signature: str = "serving_default", seconds: float = math.inf) -> Any:
    return pool.run(signature, {"x": X}, time.monotonic() + seconds)


def test_a_pool_answers_until_it_is_closed(pool: WorkerPool) -> None:
    assert {"serving_default", "die", "refuse", "return a lambda"} < set(pool.signatures)
    answer = call(pool)
    assert answer["x"].tobytes() == X.tobytes()
    assert not answer["x"].flags.writeable
    with pytest.raises(InvalidInputError, match="not you"):
        call(pool, "refuse")
    with pytest.raises(BackendError, match="lambda"):
        call(pool, "return a lambda")
    with pytest.raises(BackendError, match=r"Unspeakable: <exception str\(\) failed>"):
        call(pool, "raise what has no text")
    assert call(pool)["pid"] == answer["pid"]
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(answer["pid"], 0)
    with pytest.raises(UnavailableError, match="m/1 is being unloaded"):
        call(pool)


def test_a_worker_that_dies_is_replaced_for_the_next_request(pool: WorkerPool) -> None:
    pids = {call(pool)["pid"]}
    for _ in range(2):
        with pytest.raises(
            UnavailableError, match=r"the worker of m/1 exited with status 7 during"
        ):
            call(pool, "die")
        pids.add(call(pool)["pid"])
    assert len(pids) == 3


def test_an_unencodable_input_does_not_harm_the_worker(pool: WorkerPool) -> None:
    with pytest.raises(Exception, match="pickle"):
        pool.run("serving_default", {"x": lambda: 0}, math.inf)
    assert call(pool)["x"].shape == (2,)


def test_a_pool_whose_workers_cannot_be_replaced_refuses_requests(
    pool: WorkerPool, directory: Path
) -> None:
    (directory / "broken").touch()
    with pytest.raises(UnavailableError):
        call(pool, "die")
    with pytest.raises(UnavailableError, match=r"(?s)m/1 has no worker: .*OSError: broken"):
        call(pool, seconds=20)
    (directory / "broken").unlink()
    end = time.monotonic() + 20
    while True:
        try:
            assert call(pool)["x"].shape == (2,)
            return
        except UnavailableError:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_a_model_that_cannot_be_loaded_leaves_no_process(directory: Path) -> None:
    (directory / "broken").touch()
    threads, processes = threading.active_count(), children()
    with pytest.raises(LoadError, match="OSError: broken"):
        WorkerPool("m/1", directory, 2)
    # Threads of other tests may end meanwhile.
    assert threading.active_count() <= threads
    (directory / "model.py").write_text("import os; os._exit(9)")
    with pytest.raises(LoadError, match="the worker exited with status 9"):
        WorkerPool("m/1", directory, 2)
    assert children() == processes


@pytest.fixture
def channels() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = map(Channel, socket.socketpair())
    yield ours, theirs
    ours.close()
    theirs.close()


def test_messages_of_any_size_pass_a_channel(channels: tuple[Channel, Channel]) -> None:
    ours, theirs = channels
    message = {str(n): np.full(n, 7, np.uint8) for n in (0, 1, 10, 3_000_000)}
    message |= {f"many {n}": np.arange(n) for n in range(600)}
    message["strings"] = np.array([b"", b"\0a"], object)
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(ours.send, ("all", message))
        name, got = theirs.receive()
        sent.result()
    assert name == "all"
    assert all(np.array_equal(got[key], array) for key, array in message.items())


def test_a_channel_gives_up_at_the_deadline_and_sees_the_end(
    channels: tuple[Channel, Channel],
) -> None:
    ours, theirs = channels
    with pytest.raises(TimeoutError):
        ours.receive(deadline=time.monotonic() - 1)
    with pytest.raises(TimeoutError):
        ours.send(np.zeros(10_000_000), deadline=time.monotonic() + 0.01)
    theirs.close()
    with pytest.raises((EOFError, OSError)):
        ours.receive()
