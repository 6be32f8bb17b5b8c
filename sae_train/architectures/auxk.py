"""AuxK: dead features learn to rebuild what the living ones leave over (arXiv 2406.04093, appendix A.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_train.architectures.step_numbers import squared_error
from sae_train.architectures.trainable_sae import TrainableSae, TrainingBatch


def auxk_loss(sae: TrainableSae, batch: TrainingBatch, error: Tensor, *, alpha: float) -> Tensor:
    """Return this rank's part of the auxiliary loss: 1 when the dead features rebuild nothing, 0 when all.

    `error` [rows, d_model] is what the living features leave over, x - x_hat. Of the dead features, ReLU'd,
    the d_model / 2 largest a row are decoded, without b_dec; the squared error that remains is divided by the
    variance of `error` over the whole batch. Only the dead features' W_enc, b_enc and W_dec learn from it.
    `alpha` is the coefficient it is to get; for 0 nothing is computed.
    """
    dead = batch.dead.nonzero().squeeze(1)
    if alpha == 0 or len(dead) == 0:
        return error.new_zeros(())
    error = error.detach()
    rebuilt = _dead_acts(sae, batch.x, dead) @ sae.W_dec.index_select(0, dead)  # [rows, d_model]
    left_over = squared_error(error - rebuilt, batch)
    mean = batch.ranks.sum(error.sum(dim=0)) / batch.total_rows  # [d_model]
    variance = batch.ranks.sum(squared_error(error - mean, batch))
    return torch.nan_to_num(left_over / variance, nan=0.0, posinf=0.0)


def _dead_acts(sae: TrainableSae, x: Tensor, dead: Tensor) -> Tensor:
    """The dead features' activations, all but the d_model / 2 largest of a row being 0: [rows, dead]."""
    centred = (x - sae.b_dec).detach()
    pre_acts = centred @ sae.W_enc.index_select(1, dead) + sae.b_enc.index_select(0, dead)
    acts = torch.relu(pre_acts)
    limit = sae.d_model // 2
    if len(dead) <= limit:
        return acts
    top = torch.topk(acts, limit, dim=1, sorted=False)
    return torch.zeros_like(acts).scatter(1, top.indices, top.values)
