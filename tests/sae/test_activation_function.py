from __future__ import annotations

import pytest
import torch

from steerd.sae.activation_function import JumpReLU, ReLU, TopK

PRE_ACTS = torch.tensor([[-1.0, 0.0, 0.5, 2.0]])


def test_relu_keeps_what_is_positive():
    assert ReLU()(PRE_ACTS).tolist() == [[0.0, 0.0, 0.5, 2.0]]


def test_jumprelu_is_active_strictly_above_its_threshold():
    threshold = torch.tensor([0.0, 0.0, 0.5, 1.0])

    assert JumpReLU(threshold)(PRE_ACTS).tolist() == [[0.0, 0.0, 0.0, 2.0]]


def test_jumprelu_below_a_negative_threshold_is_never_negative():
    threshold = torch.full((4,), -2.0)

    assert JumpReLU(threshold)(PRE_ACTS).tolist() == [[0.0, 0.0, 0.5, 2.0]]


def test_topk_keeps_the_largest():
    assert TopK(1)(PRE_ACTS).tolist() == [[0.0, 0.0, 0.0, 2.0]]


def test_topk_takes_the_positive_part_after_the_choice():
    """Three are chosen, and of these the one that is not positive stays silent."""
    pre_acts = torch.tensor([[-1.0, -3.0, 0.5, 2.0]])

    assert TopK(3)(pre_acts).tolist() == [[0.0, 0.0, 0.5, 2.0]]


@pytest.mark.parametrize("k", [1, 3, 5])
def test_topk_never_keeps_more_than_k_of_equal_values(k: int):
    acts = TopK(k)(torch.ones(7, 16))

    assert (acts > 0).sum(dim=1).tolist() == [k] * 7


def test_topk_works_row_by_row_in_any_number_of_dimensions():
    pre_acts = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))

    assert torch.equal(TopK(2)(pre_acts).reshape(6, 8), TopK(2)(pre_acts.reshape(6, 8)))


def test_columns_are_the_function_on_those_features():
    threshold = torch.tensor([0.0, 0.0, 0.5, 1.0])

    assert JumpReLU(threshold).columns([3, 2])(PRE_ACTS[:, [3, 2]]).tolist() == [[2.0, 0.0]]
    assert ReLU().columns(torch.tensor([3]))(PRE_ACTS[:, [3]]).tolist() == [[2.0]]


def test_only_topk_needs_the_whole_dictionary():
    assert ReLU().columnwise
    assert JumpReLU(torch.zeros(4)).columnwise
    assert not TopK(2).columnwise
    with pytest.raises(ValueError, match="whole dictionary"):
        TopK(2).columns([0])
