"""Worker processes, without a server."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servable.errors import (
    BackendError,
    Code,
    FailedPreconditionError,
    InvalidInputError,
    LoadError,
    NotFoundError,
    UnavailableError,
)
from servable.lifecycle import Loader, ServableId
from servable.loaders._arrays import array_of, elements_of
from servable.loaders._function import FunctionLoader
from servable.loaders._python_model import load_python_model
from servable.loaders._worker_pool import TrialLoader, WorkerLoader, WorkerPool, try_load

pytestmark = pytest.mark.usefixtures("real_extension")

MODEL = """
import os, time
from servable.errors import InvalidInputError
from servable.signature import TensorSpec, serves

TENSOR = {"x": TensorSpec("float32", [None])}
PID = {"pid": TensorSpec("int64")}

if (directory := os.environ.get("WORKER_TEST_BROKEN")) and os.path.exists(directory):
    raise OSError("broken")

@serves(inputs=TENSOR, outputs={**TENSOR, **PID})
def echo(inputs):
    return {"x": inputs["x"], "pid": os.getpid()}

@serves(inputs=TENSOR, outputs=TENSOR, name="die")
def die(inputs):
    os._exit(7)

@serves(inputs=TENSOR, outputs=TENSOR, name="refuse")
def refuse(inputs):
    raise InvalidInputError("not you")

@serves(inputs=TENSOR, outputs=TENSOR, name="sleep")
def sleep(inputs):
    time.sleep(0.4)
    return {"x": inputs["x"]}

@serves(inputs=TENSOR, outputs=TENSOR, name="raise what has no text")
def raise_unspeakable(inputs):
    class Unspeakable(Exception):
        def __str__(self):
            raise ValueError
    raise Unspeakable
"""

X = np.array([1.5, np.nan], np.float32)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    monkeypatch.setenv("WORKER_TEST_BROKEN", str(tmp_path / "broken"))
    return tmp_path


def loading(directory: Path) -> Callable[[], Loader]:
    return partial(FunctionLoader, ServableId("m", 1), str(directory), load_python_model)


@pytest.fixture
def pool(directory: Path) -> Iterator[WorkerPool]:
    made = WorkerPool("m/1", loading(directory))
    yield made
    made.close()


def children() -> set[str]:
    """The child processes that have not been reaped."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {child for task in tasks for child in task.read_text().split()}


def call(pool: WorkerPool, signature: str = "serving_default") -> dict[str, Any]:
    outputs = pool.servable.run(signature, {"x": elements_of("x", X)})
    return {name: array_of(lent, number) for name, (number, lent) in outputs.items()}


def until(pool: WorkerPool, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_pool_answers_until_it_is_closed(pool: WorkerPool) -> None:
    answer = call(pool)
    assert answer["x"].tobytes() == X.tobytes()
    assert answer["pid"] != os.getpid()
    with pytest.raises(InvalidInputError, match="not you"):
        call(pool, "refuse")
    with pytest.raises(BackendError, match=r"Unspeakable: <exception str\(\) failed>"):
        call(pool, "raise what has no text")
    assert call(pool)["pid"] == answer["pid"]
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(answer["pid"]), 0)
    with pytest.raises(UnavailableError, match="m/1 is being unloaded"):
        call(pool)


def test_a_worker_that_dies_is_replaced_for_the_next_request(pool: WorkerPool) -> None:
    pids = {int(call(pool)["pid"])}
    for _ in range(2):
        with pytest.raises(
            UnavailableError, match=r"the worker of m/1 exited with status 7 during the request"
        ):
            call(pool, "die")
        until(pool, lambda: is_answered(pool))
        pids.add(int(call(pool)["pid"]))
    assert len(pids) == 3


def is_answered(pool: WorkerPool) -> bool:
    """Whether a request is answered; on a busy machine, a worker may be back later than requests wait for one."""
    try:
        call(pool)
    except UnavailableError:
        return False
    return True


def test_a_pool_whose_workers_cannot_be_replaced_refuses_requests(
    pool: WorkerPool, directory: Path
) -> None:
    (directory / "broken").touch()
    with pytest.raises(UnavailableError):
        call(pool, "die")

    def is_refused() -> bool:
        with pytest.raises(UnavailableError, match="m/1 has no worker") as refusal:
            call(pool)
        return "OSError: broken" in str(refusal.value)

    until(pool, is_refused)
    (directory / "broken").unlink()
    until(pool, lambda: is_answered(pool))


def test_a_worker_that_has_loaded_another_model_is_not_used(
    pool: WorkerPool, directory: Path
) -> None:
    (directory / "model.py").write_text(MODEL.replace('name="refuse"', 'name="accept"'))
    with pytest.raises(UnavailableError):
        call(pool, "die")

    def is_refused() -> bool:
        with pytest.raises(UnavailableError) as refusal:
            call(pool)
        return "has loaded another model than the one before" in str(refusal.value)

    until(pool, is_refused)


def test_slots_run_requests_of_one_process_at_once(directory: Path) -> None:
    pool = WorkerPool("m/1", loading(directory), slots=4)
    try:
        call(pool)
        start = time.monotonic()
        with ThreadPoolExecutor(4) as threads:
            for answer in [threads.submit(call, pool, "sleep") for _ in range(4)]:
                answer.result()
        assert time.monotonic() - start < 1.5
    finally:
        pool.close()


def test_a_model_that_cannot_be_loaded_leaves_no_process(directory: Path) -> None:
    (directory / "broken").touch()
    threads, processes = threading.active_count(), children()
    with pytest.raises(LoadError, match="OSError: broken"):
        WorkerPool("m/1", loading(directory), processes=2)
    # Threads of other tests may end meanwhile.
    assert threading.active_count() <= threads
    (directory / "model.py").write_text("import os; os._exit(9)")
    with pytest.raises(LoadError, match="the worker exited with status 9"):
        WorkerPool("m/1", loading(directory), processes=2)
    assert children() == processes


def test_the_error_of_a_load_keeps_its_code_and_whether_it_may_pass(tmp_path: Path) -> None:
    with pytest.raises(LoadError) as error:
        WorkerPool("m/1", loading(tmp_path))
    assert error.value.code is Code.NOT_FOUND
    assert error.value.message == f"{tmp_path} holds neither model.py nor entry_point.txt"
    (tmp_path / "model.py").write_text("x = ")
    with pytest.raises(LoadError, match="SyntaxError") as error:
        WorkerPool("m/1", loading(tmp_path))
    assert not error.value.may_pass


def test_a_loader_can_load_again_after_an_unload(directory: Path) -> None:
    loader = WorkerLoader("m/1", loading(directory), lambda: 100, processes=3)
    assert loader.estimate_resources() == 300
    for _ in range(2):
        with pytest.raises(FailedPreconditionError, match="m/1 is not loaded"):
            _ = loader.servable
        loader.load()
        assert loader.servable.wait_until_idle(0)
        loader.unload()
    loader.unload()


def test_an_unload_gives_models_time_to_close_and_replaces_no_worker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = """
import pathlib, time
from servable.signature import Signature, TensorSpec

class Model:
    X = {"x": TensorSpec("float32", [None])}
    signatures = {"serving_default": Signature(X, X)}
    def __init__(self, directory): self.directory = directory
    def run(self, inputs): return inputs
    def close(self):
        time.sleep(0.6)
        (self.directory / "closed").touch()
"""
    (tmp_path / "model.py").write_text(body)
    loader = WorkerLoader("m/1", loading(tmp_path), lambda: 0)
    loader.load()
    loader.unload()
    assert (tmp_path / "closed").exists()
    assert "is replaced" not in caplog.text


def test_a_trial_tells_what_a_load_would_end_with(directory: Path) -> None:
    processes = children()
    try_load("m/1", loading(directory))
    loader = TrialLoader("m/1", loading(directory)(), loading(directory))
    loader.load()
    loader.unload()
    (directory / "model.py").write_text("import os; os.abort()")
    with pytest.raises(LoadError, match="trial load: the worker was killed by SIGABRT"):
        loader.load()
    (directory / "model.py").unlink()
    with pytest.raises(LoadError, match=r"trial load: .* holds neither") as error:
        loader.load()
    assert error.value.code is Code.NOT_FOUND
    with pytest.raises(NotFoundError):
        TrialLoader("m/1", loading(directory / "gone")(), loading(directory)).estimate_resources()
    assert children() == processes
