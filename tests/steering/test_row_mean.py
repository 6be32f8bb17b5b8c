"""The running mean of rows, and the variance that a reconstruction leaves."""

from __future__ import annotations

import torch

from steerd.steering.row_mean import RowMean


def test_it_goes_from_its_guess_to_the_mean_of_the_rows() -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(3000, 5, generator=generator) + torch.tensor([4.0, 0.0, -2.0, 1.0, 9.0])
    mean = RowMean(torch.zeros(5))

    for part in rows.split(7):
        mean.add(part)

    torch.testing.assert_close(mean.mean, rows.mean(dim=0) * 3000 / 3032, atol=1e-4, rtol=1e-4)


def test_rows_that_are_not_finite_do_not_count() -> None:
    mean = RowMean(torch.ones(2))

    mean.add(torch.tensor([[float("nan"), 1.0], [1.0, float("inf")]]))
    mean.add(torch.zeros(0, 2))

    assert mean.mean.tolist() == [1.0, 1.0]


def test_unexplained_is_a_share_of_the_variance() -> None:
    mean = RowMean(torch.tensor([1.0, 1.0]))
    x = torch.tensor([[3.0, 1.0], [1.0, 4.0], [float("nan"), 1.0]])

    shares = mean.unexplained(x, torch.tensor([[2.0, 1.0], [1.0, 4.0], [0.0, 0.0]]))

    assert shares[:2].tolist() == [0.25, 0.0]
    assert not shares[2].isfinite()
