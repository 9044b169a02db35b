from __future__ import annotations

import sys
import threading

import pytest

from servable.lifecycle import WorkerThreads, _workers


def test_tasks_beyond_the_limit_take_their_turn() -> None:
    workers = WorkerThreads(limit=2)
    go, lock = threading.Event(), threading.Lock()
    working, most, done = [0], [0], list[int]()

    def task(index: int) -> None:
        with lock:
            working[0] += 1
            most[0] = max(most[0], working[0])
        assert go.wait(10)
        with lock:
            working[0] -= 1
            done.append(index)

    for index in range(20):
        workers.submit(f"task {index}", lambda index=index: task(index))
    assert not workers.join(0)
    go.set()
    assert workers.join(10)
    assert sorted(done) == list(range(20))
    assert most[0] <= 2


def test_a_task_that_waits_makes_room_even_for_what_it_waits_for() -> None:
    workers = WorkerThreads(limit=1)
    happened = threading.Event()

    def wait() -> None:
        with workers.waiting():
            assert happened.wait(10)

    for _ in range(5):
        workers.submit("wait", wait)
    workers.submit("happen", happened.set)
    assert workers.join(10)
    assert happened.is_set()


def test_threads_bear_the_names_of_their_tasks() -> None:
    workers, names = WorkerThreads(), list[str]()
    workers.submit("load m/1", lambda: names.append(threading.current_thread().name))
    assert workers.join(10)
    assert names == ["load m/1"]


def test_a_task_with_a_bug_does_not_take_the_others_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    workers, done = WorkerThreads(limit=1), threading.Event()
    workers.submit("bug", lambda: 1 // 0)  # type: ignore[arg-type,return-value]
    workers.submit("exit", sys.exit)
    workers.submit("good", done.set)
    assert workers.join(10)
    assert done.is_set()
    assert "Unexpected error in bug" in caplog.text
    assert "Unexpected error in exit" in caplog.text


def test_existing_threads_do_the_work_if_the_system_refuses_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workers, go, done = WorkerThreads(), threading.Event(), list[int]()
    start, granted = threading.Thread.start, [1]

    def grudgingly(thread: threading.Thread) -> None:
        if not granted[0]:
            raise RuntimeError("can't start new thread")
        granted[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", grudgingly)
    workers.submit("first", lambda: go.wait(10) and None)
    for index in range(3):
        workers.submit("next", lambda index=index: done.append(index))
    go.set()
    assert workers.join(10)
    assert done == [0, 1, 2]


def test_a_task_waits_for_the_system_to_grant_a_thread(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    workers, done, start = WorkerThreads(), threading.Event(), threading.Thread.start
    refusals = 2

    def grudgingly(thread: threading.Thread) -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", grudgingly)
    monkeypatch.setattr(_workers, "_PAUSE_SECONDS", 0.01)
    workers.submit("load m/1", done.set)
    assert workers.join(10)
    assert done.is_set()
    assert "Cannot start a thread to load m/1: the system refuses it" in caplog.text


def test_a_thread_is_used_again_and_ends_when_there_is_nothing_to_do() -> None:
    workers = WorkerThreads(idle_seconds=0.05)
    used: set[threading.Thread] = set()
    for _ in range(20):
        workers.submit("task", lambda: used.add(threading.current_thread()))
        assert workers.join(10)
    assert len(used) < 20
    for thread in used:
        thread.join(10)
        assert not thread.is_alive()
    workers.submit("task", lambda: used.add(threading.current_thread()))
    assert workers.join(10)


def test_random_work_completes_and_leaks_nothing() -> None:
    workers = WorkerThreads(limit=3, idle_seconds=0.01)
    done, lock = [0], threading.Lock()

    def task(depth: int) -> None:
        if depth:
            workers.submit("child", lambda: task(depth - 1))
            with workers.waiting():
                workers.submit("child", lambda: task(depth - 1))
        with lock:
            done[0] += 1

    submitters = [
        threading.Thread(
            target=lambda: [workers.submit("root", lambda: task(4)) for _ in range(10)]
        )
        for _ in range(4)
    ]
    for thread in submitters:
        thread.start()
    for thread in submitters:
        thread.join(10)
    assert workers.join(20)
    assert done[0] == 40 * 31
