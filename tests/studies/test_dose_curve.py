"""What follows from measures: repetition, fluency, score, the safe range and the sweet spot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from steerd.steering.intervention import FeatureRef
from steerd.studies.dose_curve import (
    DoseBounds,
    DoseCurve,
    DosePoint,
    NextTokenEffect,
    TextEffect,
    dose_score,
    mean_text,
    repetition,
)

PLAIN = TextEffect(concept=0.1, active_share=0.0, promoted_share=0.0, surprise=2.0, repetition=0.1)
NOTHING = NextTokenEffect(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
BOUNDS = DoseBounds(surprise_gain=0.7, repetition_gain=0.2)


def point(strength: float, score: float, *, is_safe: bool = True) -> DosePoint:
    return DosePoint(
        strength=strength,
        feature_max=0.0,
        resid_norm=strength,
        next_token=NOTHING,
        text=PLAIN,
        control=None,
        control_next_token=None,
        fluency=1.0,
        score=score,
        is_safe=is_safe,
    )


def curve(*points: DosePoint) -> DoseCurve:
    return DoseCurve(True, FeatureRef("sae", 1), 0.0, (), PLAIN, "", points, ())


def test_repetition_counts_runs_of_four_that_came_before() -> None:
    assert repetition([1, 2, 3, 4, 5, 6]) == 0
    assert repetition([7] * 10) == pytest.approx(6 / 7)
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert repetition([1, 1, 1]) == 0


def test_twice_the_perplexity_is_half_the_fluency() -> None:
    text = replace(PLAIN, surprise=PLAIN.surprise + 0.6931471805599453, concept=0.6)

    fluency, score = dose_score(text, PLAIN)

    assert fluency == pytest.approx(0.5)
    assert score == pytest.approx(0.5), "the harmonic mean of 0.5 and 0.5"


def test_what_repeats_itself_more_is_less_fluent_and_plainer_text_is_not_more() -> None:
    assert dose_score(replace(PLAIN, repetition=0.4), PLAIN)[0] == pytest.approx(0.7)
    assert dose_score(replace(PLAIN, repetition=0.0, surprise=0.5), PLAIN)[0] == 1.0


def test_without_a_gain_there_is_no_score() -> None:
    assert dose_score(replace(PLAIN, concept=0.05), PLAIN) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("change", "side_kl", "holds"),
    [
        ({"surprise": 2.69}, 9.0, True),
        ({"surprise": 2.71}, 0.0, False),
        ({"repetition": 0.31}, 0.0, False),
        ({"repetition": 0.29}, 0.0, True),
    ],
)
def test_the_bounds_of_a_safe_strength(change: dict[str, float], side_kl: float, holds: bool) -> None:
    assert BOUNDS.holds(replace(PLAIN, **change), PLAIN, side_kl) is holds


def test_side_effects_are_bounded_if_asked_for() -> None:
    strict = replace(BOUNDS, side_kl=0.5)

    assert [strict.holds(PLAIN, PLAIN, side_kl) for side_kl in (0.4, 0.6)] == [True, False]


def test_the_safe_range_ends_before_the_first_strength_that_is_not() -> None:
    found = curve(point(1, 0.2), point(2, 0.4), point(3, 0.9, is_safe=False), point(4, 0.8))

    assert found.safe_up_to == found.points[1]
    assert found.sweet_spot == found.points[1]


def test_the_sweet_spot_is_the_best_and_not_the_largest() -> None:
    found = curve(point(1, 0.2), point(2, 0.4), point(3, 0.3))

    assert (found.safe_up_to, found.sweet_spot) == (found.points[2], found.points[1])


def test_there_may_be_neither() -> None:
    assert curve(point(1, 0.5, is_safe=False)).safe_up_to is None
    assert curve(point(1, 0.5, is_safe=False), point(2, 0.5)).sweet_spot is None
    assert curve(point(1, 0.0)).sweet_spot is None
    assert curve().safe_up_to is None


def test_a_mean_of_texts_is_that_of_each_measure() -> None:
    found = mean_text([PLAIN, TextEffect(0.3, 1.0, 0.5, 4.0, 0.3)])

    assert found == TextEffect(0.2, 0.5, 0.25, 3.0, 0.2)
