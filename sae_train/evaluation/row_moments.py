"""Mean and variance of held-out rows: the measure of reconstructions, and what replaces an ablated row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_train.activations.held_out import HeldOutRows


@dataclass(frozen=True, slots=True, eq=False)
class RowMoments:
    """Belongs to a hook point and its held-out rows, whatever SAE is measured there."""

    rows: int
    mean: Tensor
    """[d_model] float64."""
    variance: float
    """Mean of ||x - mean x||^2."""


def row_moments(batches: Iterable[HeldOutRows]) -> RowMoments:
    """Return the moments of all rows, in float64, however they are cut into batches; at least one row."""
    rows, total, squares = 0, torch.zeros(()), 0.0
    for batch in batches:
        x = batch.resid.double()
        rows += len(x)
        total = total + x.sum(dim=0)
        squares += float(x.square().sum())
    assert rows > 0, "no held-out rows"
    mean = total / rows
    return RowMoments(rows=rows, mean=mean, variance=squares / rows - float(mean.square().sum()))
