"""The fast choices of the largest entries against sorting all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from sae_train.architectures.largest_entries import largest_of_batch, largest_of_rows
from sae_train.ranks import ALONE


def random_entries(rows: int, d_sae: int, seed: int = 1) -> Tensor:
    return torch.randn(rows, d_sae, generator=torch.Generator().manual_seed(seed))


def blocks_of(pre_acts: Tensor) -> Callable[[], Iterable[Tensor]]:
    return lambda: pre_acts.split(7)


@pytest.mark.parametrize(("d_sae", "k"), [(48, 3), (4608, 32), (4608, 500), (33, 2), (64, 1), (64, 63)])
def test_a_rows_choice_is_exact_in_groups_of_any_size(d_sae: int, k: int) -> None:
    pre_acts = random_entries(20, d_sae)

    flat = largest_of_rows(pre_acts, k).view(20, k)

    first = torch.arange(20).unsqueeze(1) * d_sae
    expected = pre_acts.sort(dim=1, descending=True).indices[:, :k] + first
    assert torch.equal(flat.sort(dim=1).values, expected.sort(dim=1).values)


def test_a_row_of_equal_entries_gets_k_of_them() -> None:
    flat = largest_of_rows(torch.ones(4, 64), 4).view(4, 4)

    assert all(len(set(row)) == 4 for row in flat.tolist())


@pytest.mark.parametrize("last_smallest", [0.0, 0.5, 2.0, 100.0])
def test_a_batchs_choice_is_exact_wherever_the_search_begins(last_smallest: float) -> None:
    pre_acts = random_entries(50, 30)

    found = largest_of_batch(blocks_of(pre_acts), 100, last_smallest=torch.tensor(last_smallest), ranks=ALONE)

    expected = pre_acts.flatten().sort(descending=True)
    assert torch.equal(found.indices, expected.indices[:100].sort().values)
    assert torch.equal(found.values, pre_acts.flatten()[found.indices])
    assert found.smallest == expected.values[99]


def test_only_positive_entries_are_chosen() -> None:
    pre_acts = torch.tensor([[1.0, -1.0, 0.0], [-2.0, 3.0, -4.0]])

    found = largest_of_batch(blocks_of(pre_acts), 4, last_smallest=torch.tensor(0.0), ranks=ALONE)

    assert found.indices.tolist() == [0, 4]
    assert found.smallest == 1.0


def test_of_equal_entries_on_the_border_the_first_are_chosen() -> None:
    pre_acts = torch.tensor([[2.0, 1.0, 1.0], [1.0, 3.0, 1.0]])

    found = largest_of_batch(blocks_of(pre_acts), 4, last_smallest=torch.tensor(1.0), ranks=ALONE)

    assert found.indices.tolist() == [0, 1, 2, 4]
    assert found.smallest == 1.0
