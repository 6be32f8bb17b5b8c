"""Rows of slices, from one to the next."""

from __future__ import annotations

import random
from itertools import pairwise

from steerd.engine.study_pace import StudyPace


def test_slices_grow_to_the_largest_and_are_small_again_after_a_request() -> None:
    pace = StudyPace(small=256, large=1024)
    assert pace.rows is None

    rows = []
    while pace.rows != 1024:
        pace.grow()
        rows.append(pace.rows)
    pace.grow()
    assert pace.rows == 1024
    assert all(later > earlier for earlier, later in pairwise(rows))

    pace.shrink()
    assert pace.rows is None


def test_what_can_be_lost_is_bounded_by_what_was_done() -> None:
    small = random.randint(1, 500)
    pace, done, slices = StudyPace(small=small, large=100 * small), 0, 0
    while pace.rows != 100 * small:
        done, slices = done + (pace.rows or small), slices + 1
        pace.grow()
        assert slices < 4 or (pace.rows or small) <= done / 2
    assert 100 * small <= done / 3


def test_a_largest_that_is_smaller_leaves_all_as_they_are() -> None:
    pace = StudyPace(small=256, large=1)
    pace.grow()
    assert pace.rows is None
