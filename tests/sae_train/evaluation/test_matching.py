from __future__ import annotations

from itertools import permutations

import pytest
import torch

from sae_train.evaluation.matching import best_matching


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (6, 6), (6, 4)])
def test_no_other_matching_weighs_more(shape: tuple[int, int], seed: int) -> None:
    weights = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    small = weights if shape[0] <= shape[1] else weights.t()
    choices = permutations(range(small.shape[1]), small.shape[0])
    most = max(sum(float(small[row, column]) for row, column in enumerate(choice)) for choice in choices)

    matched = best_matching(weights)

    assert len(matched) == min(shape)
    assert float(matched.sum()) == pytest.approx(most)


def test_ties_are_matched_one_to_one() -> None:
    assert best_matching(torch.ones(4, 4)).tolist() == [1.0] * 4
