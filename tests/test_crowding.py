"""While other processes keep the cores busy small loops stay on the calling thread."""

from __future__ import annotations

import ctypes

import pytest

from tests.built import compiled_library

MICROSECOND, MILLISECOND = 1_000, 1_000_000


@pytest.fixture
def crowding() -> ctypes.CDLL:
    """Returns csrc/sweep/crowding.h, with no wait on record."""
    library = compiled_library("crowding")
    library.lasts.restype = ctypes.c_bool
    library.note.argtypes = [ctypes.c_int64] * 3
    library.lasts.argtypes = [ctypes.c_int64]
    library.forget()
    return library


@pytest.mark.parametrize(
    ("worked", "waited"),
    [
        (0, 0),
        (30 * MICROSECOND, 5 * MICROSECOND),
        (30 * MICROSECOND, 150 * MICROSECOND),  # a thread that had to wake
        (10 * MILLISECOND, 9 * MILLISECOND),  # parts of different speed
    ],
)
def test_waits_of_threads_that_run_are_taken_for_none(
    crowding: ctypes.CDLL, worked: int, waited: int
) -> None:
    crowding.note(0, worked, waited)
    assert not crowding.lasts(0)


def test_a_time_slice_of_waiting_lets_small_loops_run_alone_for_64_times_as_long(
    crowding: ctypes.CDLL,
) -> None:
    crowding.note(1000, 30 * MICROSECOND, 4 * MILLISECOND)
    assert crowding.lasts(1000)
    assert crowding.lasts(1000 + 256 * MILLISECOND - 1)
    assert not crowding.lasts(1000 + 256 * MILLISECOND)


def test_a_process_that_was_paused_goes_on_as_after_a_short_wait(crowding: ctypes.CDLL) -> None:
    crowding.note(0, 30 * MICROSECOND, 3600 * 1000 * MILLISECOND)
    assert not crowding.lasts(6400 * MILLISECOND)


def test_a_loop_that_finds_its_threads_again_ends_nothing_and_a_wait_begins_anew(
    crowding: ctypes.CDLL,
) -> None:
    """A large loop is not small, so it may run on threads meanwhile."""
    crowding.note(0, 30 * MICROSECOND, 4 * MILLISECOND)
    crowding.note(MILLISECOND, 30 * MICROSECOND, 0)
    assert crowding.lasts(2 * MILLISECOND)
    crowding.note(2 * MILLISECOND, 30 * MICROSECOND, 8 * MILLISECOND)
    assert crowding.lasts(500 * MILLISECOND)
