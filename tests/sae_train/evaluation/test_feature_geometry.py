from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sae_train.evaluation import feature_geometry
from sae_train.evaluation.feature_geometry import decoder_neighbours, match_features


def random_directions(count: int, *, seed: int = 0, d_model: int = 12) -> Tensor:
    directions = torch.randn(count, d_model, generator=torch.Generator().manual_seed(seed))
    unit: Tensor = directions / directions.norm(dim=1, keepdim=True)
    return unit


def test_each_feature_looks_for_its_nearest_other() -> None:
    """Directions at 0, 60 and 90 degrees, of any length: cosines 0.5, cos 30, cos 30."""
    W_dec = torch.tensor([[2.0, 0.0], [0.5, math.sqrt(3) / 2], [0.0, 3.0]])

    found = decoder_neighbours(W_dec)

    assert found.mean == pytest.approx((0.5 + 2 * math.sqrt(3) / 2) / 3)
    assert found.p50 == pytest.approx(math.sqrt(3) / 2)
    counts = dict(zip(found.bin_edges, found.counts, strict=False))
    assert (counts[0.5], counts[0.85]) == (1, 2)
    assert sum(found.counts) == 3


def test_the_opposite_direction_is_no_neighbour() -> None:
    found = decoder_neighbours(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))

    assert found.mean == -1.0
    assert found.counts[0] == 2


def test_neighbours_are_the_same_however_few_cosines_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    W_dec = random_directions(50)
    cosines = (W_dec.double() @ W_dec.double().t()).fill_diagonal_(-1)
    monkeypatch.setattr(feature_geometry, "_COSINES_AT_ONCE", 7 * 50)

    found = decoder_neighbours(W_dec)

    assert found.mean == pytest.approx(float(cosines.max(dim=1).values.mean()))


def test_a_feature_alone_has_no_neighbours() -> None:
    found = decoder_neighbours(torch.ones(1, 4))

    assert math.isnan(found.mean)
    assert sum(found.counts) == 0


def test_two_seeds_with_the_same_features_in_another_order_match_wholly() -> None:
    a = random_directions(30)
    b = 3 * a[torch.randperm(30, generator=torch.Generator().manual_seed(1))]

    found = match_features(a, b)

    assert found.mcc == pytest.approx(1.0)
    assert (found.matched_share, found.nearest_share_a, found.nearest_share_b) == (1.0, 1.0, 1.0)


def test_a_feature_is_matched_once_but_may_be_nearest_to_many() -> None:
    """A has the first axis twice: one of the two must take B's second axis, at a cosine of 0."""
    axes = torch.eye(2)
    a, b = axes[[0, 0]], axes[[0, 1]]

    found = match_features(a, b)

    assert found.mcc == pytest.approx(0.5)
    assert found.matched_share == 0.5
    assert (found.nearest_mean_a, found.nearest_mean_b) == (1.0, 0.5)
    assert (found.nearest_share_a, found.nearest_share_b) == (1.0, 0.5)


def test_opposite_features_do_not_match() -> None:
    assert match_features(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]])).mcc == -1.0


def test_saes_of_unlike_width_are_matched_as_far_as_the_smaller_goes() -> None:
    wide = random_directions(40)

    found = match_features(wide[:10], wide)

    assert (found.features_a, found.features_b) == (10, 40)
    assert found.mcc == pytest.approx(1.0)
    assert found.nearest_share_b < 1.0


def test_too_wide_saes_are_compared_without_a_matching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_geometry, "_WIDEST_MATCHING", 5)
    directions = random_directions(6)

    found = match_features(directions, directions)

    assert (found.mcc, found.matched_share) == (None, None)
    assert found.nearest_mean_a == pytest.approx(1.0)
