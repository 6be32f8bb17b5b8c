from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from numpy.typing import NDArray

from steerd.studies.false_discovery import q_values
from steerd.studies.two_sets import Firing, SetComparison, compare_sets

Values = NDArray[np.float64]


def firing_of(first: Values, second: Values) -> Firing:
    """Matrices [texts, features] as entries, in a random order."""
    values = np.concatenate([first, second])
    text, feature = np.nonzero(values)
    order = np.random.default_rng(0).permutation(len(text))
    text, feature = text[order], feature[order]
    return Firing(feature, text < len(first), values[text, feature])


def compared(first: Values, second: Values) -> SetComparison:
    return compare_sets(firing_of(first, second), len(first), len(second), first.shape[1])


def sparse_values(rng: np.random.Generator, texts: int, features: int, share: float | Values) -> Values:
    values = rng.gamma(2.0, size=(texts, features))
    return np.where(rng.random((texts, features)) < share, values, 0.0)


def deltas(values: Values, is_first: NDArray[np.bool_]) -> float:
    pairs = np.sign(values[is_first][:, None] - values[~is_first][None, :])
    return float(pairs.mean())


def exact_p(values: Values, num_first: int) -> float:
    """By trying every way to choose the first set."""
    splits = list(combinations(range(len(values)), num_first))
    is_first = np.zeros((len(splits), len(values)))
    np.put_along_axis(is_first, np.array(splits), 1.0, axis=1)
    larger = np.sign(values[:, None] - values[None, :])
    found = np.abs(((is_first @ larger) * (1 - is_first)).sum(axis=1))
    observed = found[splits.index(tuple(range(num_first)))]
    return float((found >= observed - 1e-9).mean())


def exact_fisher(first: int, second: int, num_first: int, num_second: int) -> float:
    """From the definition, in whole numbers."""
    firing, total = first + second, comb(num_first + num_second, first + second)
    ways = [comb(num_first, k) * comb(num_second, firing - k) for k in range(firing + 1)]
    return sum(way for way in ways if way <= ways[first]) / total


def test_effect_and_counts_are_those_of_their_definitions() -> None:
    rng = np.random.default_rng(1)
    first, second = sparse_values(rng, 17, 40, 0.4), sparse_values(rng, 9, 40, 0.6)
    second[:5, :20] = first[:5, :20]  # ties of firing texts
    found = compared(first, second)
    values, is_first = np.concatenate([first, second]), np.arange(26) < 17

    np.testing.assert_array_equal(found.first, (first > 0).sum(axis=0))
    np.testing.assert_array_equal(found.second, (second > 0).sum(axis=0))
    expected = [deltas(values[:, feature], is_first) for feature in range(40)]
    np.testing.assert_allclose(found.cliffs_delta, expected, atol=1e-12)


@pytest.mark.parametrize(("num_first", "num_second"), [(8, 8), (20, 5), (3, 30)])
def test_the_test_of_rates_is_fishers(num_first: int, num_second: int) -> None:
    rng = np.random.default_rng(2)
    share = rng.random(30)
    first, second = sparse_values(rng, num_first, 30, share), sparse_values(rng, num_second, 30, share)
    found = compared(first, second)

    counts = zip(found.first.tolist(), found.second.tolist(), strict=True)
    expected = [exact_fisher(a, b, num_first, num_second) for a, b in counts]
    np.testing.assert_allclose(found.p_rate, expected, rtol=1e-9)


@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_the_test_of_strengths_is_close_to_trying_every_split(share: float) -> None:
    rng = np.random.default_rng(3)
    first, second = sparse_values(rng, 7, 12, share), sparse_values(rng, 6, 12, share)
    first[:, ::2] *= 3.0
    found = compared(first, second)

    for feature in range(12):
        exact = exact_p(np.concatenate([first, second])[:, feature], 7)
        assert found.p_strength[feature] == pytest.approx(exact, rel=0.35, abs=0.03)


def test_a_rare_feature_of_a_small_set_keeps_an_honest_p_value() -> None:
    """Three of 20 texts against none of 980: a normal approximation over all texts says 1e-9."""
    first, second = np.zeros((20, 1)), np.zeros((980, 1))
    first[:3] = [[1.0], [2.0], [3.0]]
    found = compared(first, second)

    exact = comb(20, 3) / comb(1000, 3)
    assert found.p_rate[0] == pytest.approx(exact, rel=1e-6)
    assert exact / 2 < found.p_strength[0] < 3 * exact


@pytest.mark.parametrize(("num_first", "num_second"), [(30, 30), (12, 60)])
def test_p_values_are_honest_when_nothing_differs(num_first: int, num_second: int) -> None:
    rng = np.random.default_rng(4)
    share = rng.choice([0.05, 0.2, 0.7, 1.0], size=20_000)
    found = compared(
        sparse_values(rng, num_first, 20_000, share), sparse_values(rng, num_second, 20_000, share)
    )

    for p_values in (found.p_rate, found.p_strength, found.p_value):
        for level in (0.1, 0.01, 0.001):
            assert (p_values <= level).mean() < 1.25 * level + 3 * (level / 20_000) ** 0.5
    assert (found.p_strength[share == 1.0] <= 0.1).mean() > 0.07  # and not by saying 1 to everything


def test_sets_that_do_not_overlap_are_told_apart() -> None:
    rng = np.random.default_rng(5)
    first, second = 1 + rng.random((25, 3)), rng.random((25, 3))
    second[:, 1], first[:, 2] = 0.0, second[:, 2]
    found = compared(first, second)

    np.testing.assert_allclose(found.cliffs_delta, [1.0, 1.0, 0.0])
    assert (found.p_strength[:2] < 1e-8).all()
    assert found.p_rate[1] < 1e-12
    assert found.p_rate[0] == found.p_rate[2] == found.p_strength[2] == 1.0


def test_p_values_too_small_for_a_float_are_still_above_zero() -> None:
    found = compared(1 + np.arange(1500.0)[:, None], np.zeros((1500, 1)))

    assert 0 < found.p_value[0] < 1e-200


def test_a_feature_that_never_fires_says_nothing() -> None:
    found = compared(np.zeros((4, 2)), np.zeros((5, 2)))

    assert found.p_value.tolist() == [1.0, 1.0]
    assert found.cliffs_delta.tolist() == [0.0, 0.0]


def test_values_that_are_all_alike_leave_the_rates() -> None:
    first, second = np.ones((10, 1)), np.array([[1.0]] * 4 + [[0.0]] * 6)
    found = compared(first, second)

    assert found.p_strength[0] == pytest.approx(found.p_rate[0], rel=1e-6)


def test_corrected_p_values_are_those_of_the_step_up_rule() -> None:
    rng = np.random.default_rng(6)
    p_values = rng.random(200) ** 3
    corrected = q_values(p_values)

    for level in (0.01, 0.05, 0.2):
        ordered = np.sort(p_values)
        passing = [rank for rank, p in enumerate(ordered, 1) if p <= level * rank / 200]
        picked = ordered[: max(passing, default=0)]
        np.testing.assert_array_equal(np.sort(p_values[corrected <= level]), picked)
    assert len(q_values(np.array([]))) == 0


def test_false_discoveries_stay_below_their_rate() -> None:
    """900 features that differ in nothing and 100 that do, again and again."""
    rng = np.random.default_rng(7)
    shares = []
    for _ in range(40):
        share = rng.choice([0.1, 0.5, 1.0], size=1000)
        first, second = sparse_values(rng, 40, 1000, share), sparse_values(rng, 40, 1000, share)
        first[:, :100] *= 4.0
        picked = q_values(compared(first, second).p_value) <= 0.1
        shares.append(picked[100:].sum() / max(picked.sum(), 1))
        assert picked[:100][share[:100] == 1.0].mean() > 0.9
    assert np.mean(shares) < 0.1
