from __future__ import annotations

from servable.lifecycle import ResourceTracker, ServableId

ONE, TWO = ServableId("m", 1), ServableId("m", 2)


def test_reservations_beyond_the_limit_are_refused_until_one_is_released() -> None:
    tracker = ResourceTracker(100)
    assert tracker.reserve(ONE, 60)
    assert not tracker.reserve(TWO, 41)
    assert tracker.reserved_bytes == 60
    assert tracker.reserve(TWO, 40)
    tracker.release(ONE)
    tracker.release(ONE)
    assert tracker.reserved_bytes == 40


def test_a_new_reservation_of_the_same_version_replaces_the_old_one() -> None:
    tracker = ResourceTracker(100)
    assert tracker.reserve(ONE, 60)
    assert tracker.reserve(ONE, 100)
    assert tracker.reserved_bytes == 100


def test_without_a_limit_everything_fits() -> None:
    assert ResourceTracker().reserve(ONE, 2**70)
