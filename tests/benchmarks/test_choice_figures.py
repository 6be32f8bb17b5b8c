"""Which features each choice takes, and what is said of them."""

from __future__ import annotations

import pytest

from benchmarks.choice_figures import MEASURES, Steered, choices, figures, times, times_name, told_name


def steered(output: float, label: float, gain: float) -> Steered:
    return Steered({"output score": output, "label score": label}, dict.fromkeys(MEASURES, gain))


POOL = [
    steered(0.9, 0.7, 0.6),
    steered(0.2, 0.9, 0.1),
    steered(0.8, 0.5, 0.4),
    steered(0.1, 0.8, 0.0),
    steered(0.3, 0.6, 0.2),
    steered(0.4, 0.4, 0.3),
    steered(0.5, 0.3, 0.5),
]


def test_each_choice_takes_its_third_of_the_pool() -> None:
    taken = {name: [each.scores["output score"] for each in group] for name, group in choices(POOL).items()}

    assert set(taken["output score"]) == {0.8, 0.9}
    assert set(taken["label score"]) == {0.2, 0.1}
    assert set(taken["low output score"]) == {0.2, 0.1}
    assert len(taken["chance"]) == 7


def test_gains_are_means_and_compared_with_those_of_the_output_score() -> None:
    told = figures(POOL)

    assert told["concept, output score"] == pytest.approx(0.5)
    assert told["concept, label score"] == pytest.approx(0.05)
    assert told["concept, chance"] == pytest.approx(0.3)
    assert told[times_name("label score")] == pytest.approx(10.0)
    assert told[times_name("chance")] == pytest.approx(0.5 / 0.3)


def test_scores_are_correlated_with_gains_by_rank() -> None:
    ordered = [steered(output=n**3, label=-n, gain=n) for n in range(6)]

    told = figures(ordered)

    assert told[told_name("concept", "output score")] == pytest.approx(1.0)
    assert told[told_name("concept", "label score")] == pytest.approx(-1.0)


def test_no_gain_is_no_times_anything() -> None:
    assert times(0.3, 0.15) == pytest.approx(2.0)
    assert times(0.3, 0.0) == pytest.approx(30.0), "as one of 0.01"
    assert times(-0.1, -0.2) == 0.0
