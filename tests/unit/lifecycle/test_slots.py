from __future__ import annotations

import threading

from servable.lifecycle._slots import Slots


class Crowd:
    """Threads that want a slot, and keep it until they are released."""

    def __init__(self, slots: Slots, count: int) -> None:
        self.entered = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self._slots = slots
        self._threads = [threading.Thread(target=self._stay, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _stay(self) -> None:
        with self._slots:
            self.entered.release()
            self.go.acquire()

    def enter(self, count: int) -> None:
        """This many further threads get a slot, and no other."""
        for _ in range(count):
            assert self.entered.acquire(timeout=10)
        assert not self.entered.acquire(timeout=0.02)

    def leave(self, count: int) -> None:
        self.go.release(count)

    def end(self) -> None:
        for thread in self._threads:
            thread.join(timeout=10)
            assert not thread.is_alive()


def test_only_so_many_are_inside() -> None:
    crowd = Crowd(Slots(2), 5)
    crowd.enter(2)
    crowd.leave(1)
    crowd.enter(1)
    crowd.leave(4)
    crowd.end()


def test_a_lower_limit_counts_once_enough_have_left() -> None:
    slots = Slots(3)
    crowd = Crowd(slots, 5)
    crowd.enter(3)
    slots.set_limit(1)
    crowd.leave(2)
    crowd.enter(0)
    crowd.leave(1)
    crowd.enter(1)
    crowd.leave(2)
    crowd.end()


def test_a_higher_limit_counts_at_once() -> None:
    slots = Slots(1)
    crowd = Crowd(slots, 4)
    crowd.enter(1)
    slots.set_limit(4)
    crowd.enter(3)
    crowd.leave(4)
    crowd.end()


def test_one_that_fails_leaves() -> None:
    slots = Slots(1)
    try:
        with slots:
            raise ValueError
    except ValueError:
        pass
    crowd = Crowd(slots, 1)
    crowd.enter(1)
    crowd.leave(1)
    crowd.end()


def test_one_that_stays_too_long_counts_no_longer() -> None:
    time = [0.0]
    slots = Slots(2, patience_seconds=60, clock=lambda: time[0])
    crowd = Crowd(slots, 2)
    crowd.enter(2)
    time[0] = 60.0
    later = Crowd(slots, 3)
    later.enter(2)
    crowd.leave(2)
    crowd.end()
    later.enter(0)
    later.leave(1)
    later.enter(1)
    later.leave(2)
    later.end()


def test_a_waiting_thread_gets_the_slot_of_one_that_exceeded_its_patience() -> None:
    crowd = Crowd(Slots(1, patience_seconds=0.05), 2)
    assert crowd.entered.acquire(timeout=10)
    assert crowd.entered.acquire(timeout=10), "though nobody has left"
    crowd.leave(2)
    crowd.end()
