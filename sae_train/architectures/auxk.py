"""AuxK: dead features learn to rebuild what the living ones leave over (arXiv 2406.04093, appendix A.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_train.architectures.squared_error import share_of_squares
from sae_train.architectures.trainable_sae import TrainableSae, TrainingBatch


def auxk_loss(sae: TrainableSae, batch: TrainingBatch, error: Tensor) -> Tensor:
    """Return this rank's part of the auxiliary loss: 1 when the dead features rebuild nothing, 0 when all.

    `error` [rows, d_model] is what the living features leave over, x - x_hat. Of the dead features, ReLU'd,
    the d_model / 2 largest a row are decoded, without b_dec; the squared error that remains is divided by the
    variance of `error` over the whole batch. Only the dead features' W_enc, b_enc and W_dec learn from it.
    """
    dead = batch.dead.nonzero().squeeze(1)
    if len(dead) == 0:
        return error.new_zeros(())
    error = error.detach()
    centred = (batch.x - sae.b_dec).detach()
    acts = torch.relu(centred @ sae.W_enc[:, dead] + sae.b_enc[dead])  # [rows, dead]
    limit = sae.d_model // 2
    if len(dead) > limit:
        top = torch.topk(acts, limit, dim=1, sorted=False)
        acts = torch.zeros_like(acts).scatter(1, top.indices, top.values)
    left_over = share_of_squares(error - acts @ sae.W_dec[dead], batch)
    mean = batch.ranks.sum(error.sum(dim=0)) / batch.total_rows
    variance = batch.ranks.sum(share_of_squares(error - mean, batch))
    return torch.nan_to_num(left_over / variance, nan=0.0, posinf=0.0)
