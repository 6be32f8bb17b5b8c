from __future__ import annotations

import pytest

from benchmarks.decode_rate import Arrivals


def test_rows_that_move_together_are_counted_after_their_first_token() -> None:
    times = [5.0, 5.5, 6.0, 6.5]

    arrivals = Arrivals(1.0, [times] * 4)

    assert arrivals.decode_rate() == pytest.approx(4 / 0.5)
    assert arrivals.total_rate() == pytest.approx(16 / 5.5)


def test_only_the_time_in_which_all_decode_counts() -> None:
    """The second request is prefilled while the first decodes slowly, and is alone, and quick, at the end."""
    first = [0.0, 5.0, 10.0, 11.0, 12.0]
    second = [10.0, 11.0, 12.0, 12.1, 12.2]

    assert Arrivals(0.0, [first, second]).decode_rate() == pytest.approx(2.0)


def test_a_step_that_reaches_the_rows_one_after_the_other_does_not_change_the_rate() -> None:
    steps = [1.0, 2.0, 3.0, 4.0]
    rows = [[step + 0.01 * row for step in steps] for row in range(8)]

    assert Arrivals(0.0, rows).decode_rate() == pytest.approx(8.0)


def test_requests_that_never_decode_together_have_no_rate() -> None:
    with pytest.raises(AssertionError, match="too few tokens"):
        Arrivals(0.0, [[1.0, 2.0], [3.0, 4.0]]).decode_rate()
