from __future__ import annotations

import pytest
import torch

from sae_train.evaluation.row_moments import row_moments
from tests.sae_train.evaluation.hand_made import cut, rows_of


def test_moments_are_those_of_all_rows_however_cut() -> None:
    resid = torch.randn(101, 5, generator=torch.Generator().manual_seed(0)) + 100  # far from zero

    moments = row_moments(cut(rows_of(resid), 10))

    assert moments.rows == 101
    torch.testing.assert_close(moments.mean, resid.double().mean(dim=0))
    assert moments.variance == pytest.approx(float(resid.double().var(dim=0, correction=0).sum()), rel=1e-9)
