"""Spearman's coefficient against its definition by pairs of ranks."""

from __future__ import annotations

import random

import pytest

from steerd.studies.attribution.rank_correlation import rank_correlation


def naive_ranks(values):
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
        for value in values
    ]


def naive_correlation(one, other):
    pairs = list(zip(naive_ranks(one), naive_ranks(other), strict=True))
    mean = (len(one) + 1) / 2
    together = sum((a - mean) * (b - mean) for a, b in pairs)
    return together / (sum((a - mean) ** 2 for a, _ in pairs) * sum((b - mean) ** 2 for _, b in pairs)) ** 0.5


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_correlation_of_ranks_ties_included(seed):
    generator = random.Random(seed)
    one, other = ([generator.randint(-4, 4) / 2 for _ in range(12)] for _ in range(2))

    assert rank_correlation(one, other) == pytest.approx(naive_correlation(one, other))


def test_order_alone_counts():
    assert rank_correlation([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 0, -9]) == pytest.approx(-1)


@pytest.mark.parametrize(("one", "other"), [([], []), ([1.0], [2.0]), ([1.0, 2.0], [3.0, 3.0])])
def test_there_is_none_without_different_values(one, other):
    assert rank_correlation(one, other) is None
