"""The squared error that every architecture's loss begins with, of one rank's rows out of a whole batch."""

from __future__ import annotations

from torch import Tensor

from sae_train.architectures.trainable_sae import TrainingBatch


def share_of_squares(error: Tensor, batch: TrainingBatch) -> Tensor:
    """Return what these rows add to the batch's mean squared error per number, each row with its weight.

    error [rows, d_model]; scalar.
    """
    squares = error.square()
    if batch.weights is not None:
        squares = squares * batch.weights.unsqueeze(1)
    return squares.sum() / (batch.total_rows * error.shape[1])


def unweighted_share(error: Tensor, batch: TrainingBatch) -> Tensor:
    """Return the same with every row alike and without gradient: what is reported as the mse."""
    return error.detach().square().sum() / (batch.total_rows * error.shape[1])
