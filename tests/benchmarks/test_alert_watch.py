"""What the alert story asks, and how it waits."""

from __future__ import annotations

import time

import pytest

from benchmarks.alert_watch import panel_expression, seconds_until


def test_a_panel_is_asked_without_variables() -> None:
    expression = panel_expression("Above the threshold")

    assert expression.startswith("feature:steerd_feature_threshold_exceeded:ratio_rate5m")
    assert 'job="steerd"' in expression
    assert "$" not in expression


def test_an_unknown_panel_is_no_panel() -> None:
    with pytest.raises(ValueError, match="unpack"):
        panel_expression("Nothing")


def test_seconds_count_from_the_given_moment() -> None:
    answers = iter([False, True])

    assert seconds_until(lambda: next(answers), since=time.monotonic() - 100) >= 100


def test_what_never_comes_is_not_waited_for_forever() -> None:
    with pytest.raises(TimeoutError, match="900 s"):
        seconds_until(lambda: False, since=time.monotonic() - 1000)
