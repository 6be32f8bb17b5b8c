"""Families by eye, the rules of pruning row by row, and how often features fire after it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae_train.known_truth.feature_tree import TreeLevel, compensated, prune, scale_by_parents, tree_levels

# 2 roots with 2 children each, and 4 children of these with 2 each; feature 14 is in no tree.
NUM_FEATURES = 15
LEVELS = tree_levels(NUM_FEATURES, roots=2, branching=2, depth=2)
FAMILIES = {0: (2, 3), 1: (4, 5), 2: (6, 7), 3: (8, 9), 4: (10, 11), 5: (12, 13)}


def test_children_are_numbered_family_by_family() -> None:
    assert [TreeLevel(0, 2, 2, 2), TreeLevel(2, 6, 4, 2)] == LEVELS


def test_only_whole_families_are_made() -> None:
    levels = tree_levels(9, roots=2, branching=2, depth=5)

    assert levels == [TreeLevel(0, 2, 2, 2), TreeLevel(2, 6, 1, 2)]


def test_without_roots_there_are_no_families() -> None:
    assert tree_levels(9, roots=0, branching=2, depth=3) == []


def test_of_a_firing_parents_firing_children_exactly_one_stays() -> None:
    generator = torch.Generator().manual_seed(0)
    wishes = torch.rand(500, NUM_FEATURES, generator=generator) < 0.6
    fires = wishes.clone()

    prune(fires, LEVELS, generator)

    assert torch.equal(fires[:, :2], wishes[:, :2])  # roots
    assert torch.equal(fires[:, 14], wishes[:, 14])  # no tree
    for parent, children in FAMILIES.items():
        wanted, kept = wishes[:, list(children)], fires[:, list(children)]
        assert not (kept & ~wanted).any()
        assert torch.equal(kept.sum(dim=1) > 0, fires[:, parent] & wanted.any(dim=1))
        assert kept.sum(dim=1).max() == 1


def test_the_child_that_stays_is_any_of_them() -> None:
    fires = torch.ones(4000, NUM_FEATURES, dtype=torch.bool)

    prune(fires, LEVELS, torch.Generator().manual_seed(1))

    assert fires[:, 2].float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert fires[:, 7].float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_a_child_is_scaled_by_all_its_ancestors() -> None:
    feature_acts = torch.zeros(1, NUM_FEATURES)
    fired = (torch.tensor([0, 0, 0]), torch.tensor([0, 3, 8]))
    feature_acts[fired] = torch.tensor([6.0, 4.0, 1.0])
    means = torch.full((NUM_FEATURES,), 4.0)

    scale_by_parents(feature_acts, fired, LEVELS, means)

    # root 6 over its mean 4 is 1.5; the child becomes 4 * 1.5 = 6, its own child 1 * 6 / 4.
    assert feature_acts[fired].tolist() == [6.0, 6.0, 1.5]


def fires_with(probabilities: Tensor, rows: int = 200_000) -> Tensor:
    """How often each feature fires when it is drawn with its compensated probability."""
    generator = torch.Generator().manual_seed(3)
    fires = torch.rand(rows, NUM_FEATURES, generator=generator) < compensated(probabilities, LEVELS)
    prune(fires, LEVELS, generator)
    return fires.float().mean(dim=0)


def test_compensated_features_fire_about_as_often_as_they_should() -> None:
    probabilities = torch.tensor([0.5, 0.4] + [0.05] * 4 + [0.01] * 8 + [0.1])

    found = fires_with(probabilities)

    torch.testing.assert_close(found, probabilities, rtol=0.2, atol=0.0)


def test_no_compensation_goes_beyond_certainty() -> None:
    probabilities = torch.tensor([0.1, 0.1] + [0.09] * 4 + [0.08] * 8 + [0.1])

    assert compensated(probabilities, LEVELS).max() == 1.0
