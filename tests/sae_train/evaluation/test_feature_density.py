from __future__ import annotations

import math

import pytest
import torch

from sae_train.evaluation.feature_density import DENSITY_TOKENS, count_active, feature_density


def test_features_are_counted_by_how_often_they_fire() -> None:
    active = torch.tensor([0, 0, 1, 3, 9_999, 10_001, 100_000])

    density = feature_density(active, 100_000)

    assert (density.dead, density.ultra_rare, density.dense) == (2, 1, 2)
    assert density.ultra_rare_below == pytest.approx(2e-5)


def test_ultra_rare_is_a_millionth_where_tokens_allow() -> None:
    density = feature_density(torch.tensor([0, 4, 6]), 5_000_000)

    assert density.ultra_rare_below == 1e-6
    assert density.ultra_rare == 1


def test_the_histogram_holds_every_feature_that_is_not_dead() -> None:
    active = torch.tensor([0, 1, 10, 1000, 1000])

    density = feature_density(active, 1000)

    places = {
        edge: n for edge, n in zip(density.log10_bin_edges[:-1], density.log10_counts, strict=True) if n
    }
    assert places == {-3.0: 1, -2.0: 1, -0.25: 2}  # the last bin takes a density of 1 too
    assert density.log10_quantiles[50] == pytest.approx(-1.0)


def test_the_lowest_bin_takes_what_is_rarer() -> None:
    density = feature_density(torch.tensor([1]), 10**8)

    assert density.log10_counts[0] == 1


def test_quantiles_of_dead_features_are_undefined() -> None:
    density = feature_density(torch.zeros(3, dtype=torch.int64), 10)

    assert density.dead == 3
    assert all(math.isnan(value) for value in density.log10_quantiles.values())


def test_only_the_first_rows_are_counted() -> None:
    feature_acts = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])

    assert count_active(feature_acts, before=2).tolist() == [2, 0]
    assert count_active(feature_acts, before=DENSITY_TOKENS).tolist() == [2, 1]
    assert count_active(feature_acts, before=-5).tolist() == [0, 0]
