"""What an SAE's reconstruction is measured against: the mean of the rows that were sampled lately."""

from __future__ import annotations

import torch
from torch import Tensor

_START = 32.0  # rows that the first guess counts for
_MEMORY = 4096.0  # rows that it looks back on, more or less


class RowMean:
    """A running mean [d_model] in float32. Rows that are not finite do not count."""

    def __init__(self, guess: Tensor) -> None:
        """Start from a guess [d_model]: an SAE's b_dec is trained to be near the mean."""
        self.mean = guess.float().clone()
        self._num_rows = _START

    def add(self, x: Tensor) -> None:
        """Take in rows x [rows, d_model]; none changes nothing."""
        self._num_rows = min(self._num_rows + len(x), _MEMORY)
        is_finite = torch.isfinite(x).all(dim=1, keepdim=True)
        self.mean += torch.where(is_finite, x - self.mean, 0.0).sum(dim=0) / self._num_rows

    def unexplained(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """The share [rows] of the variance of rows x that their reconstructions x_hat leave."""
        return (x - x_hat).square().sum(dim=1) / (x - self.mean).square().sum(dim=1)
