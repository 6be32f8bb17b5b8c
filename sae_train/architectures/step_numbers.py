"""What every architecture's step is made of and reports: squared errors, activity, coefficients that warm up.

Every number is one rank's part of the batch's: its rows' sum over the rows of all ranks.
"""

from __future__ import annotations

from torch import Tensor

from sae_train.architectures.entries import Entries
from sae_train.architectures.trainable_sae import TrainingBatch

_WARM_UP_SHARE = 0.05  # of the run


def squared_error(error: Tensor, batch: TrainingBatch) -> Tensor:
    """Return the mean squared error per number of error [rows, d_model], each row with its weight."""
    squares = error.square()
    if batch.weights is not None:
        squares = squares * batch.weights.unsqueeze(1)
    return squares.sum() / (batch.total_rows * error.shape[1])


def unweighted_error(error: Tensor, batch: TrainingBatch) -> Tensor:
    """Return the same with all rows alike and without gradient."""
    return error.detach().square().sum() / (batch.total_rows * error.shape[1])


def activity(acts: Tensor, entries: Entries, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
    """Return which features are active in some row [d_sae] bool, and the mean number of them a row."""
    counts = entries.sum_by_feature((acts.detach() > 0).float())
    return counts > 0, counts.sum() / batch.total_rows


def warmed_up(coefficient: float, batch: TrainingBatch) -> float:
    """Return the coefficient of a sparsity loss, which rises from 0 over the first 5 % of the run."""
    return coefficient * min(1.0, batch.progress / _WARM_UP_SHARE)
