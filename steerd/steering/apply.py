"""The arithmetic of steering: pure functions of tensors, run inside the host's forward.

rows: residual rows of a step; columns: features and directions of a table. Everything is float32 whatever the
host computes in; the caller rounds once. What is planned for a row is zero in every other row, so that a row
without edits comes out as it was, to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steerd.sae.autoencoder import SparseAutoencoder


@dataclass(frozen=True, slots=True)
class Limits:
    """Where activations are to be brought, each tensor [rows, columns]; weight 0 leaves them."""

    weight: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True, slots=True)
class ActiveTables:
    """Edits that are made only where the activation is above 0, each tensor [rows, columns]."""

    gain: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class AffineTables:
    """The edits of a step, each tensor [rows, columns]; None for what no edit of the step needs."""

    gain: Tensor
    bias: Tensor
    active: ActiveTables | None
    limits: Limits | None


def read_columns(x: Tensor, enc: Tensor, b_enc: Tensor, threshold: Tensor) -> Tensor:
    """Activations [rows, columns] of features whose encoder vectors are the rows of enc [columns, d_model].

    A feature is active where its pre-activation is strictly above its threshold (0 for ReLU); a direction's
    threshold is -inf.
    """
    pre_acts = torch.addmm(b_enc, x, enc.T)  # [rows, columns]
    return torch.where(pre_acts > threshold, pre_acts, 0.0)


def amounts(acts: Tensor, tables: AffineTables) -> Tensor:
    """How much of each column's direction is added to each row, [rows, columns]."""
    amount = torch.addcmul(tables.bias, tables.gain, acts)
    if tables.active is not None:
        amount += torch.where(acts > 0, torch.addcmul(tables.active.bias, tables.active.gain, acts), 0.0)
    if tables.limits is not None:
        limits = tables.limits
        amount += limits.weight * (torch.clamp(acts, limits.low, limits.high) - acts)
    return amount


def add_directions(x: Tensor, amount: Tensor, directions: Tensor) -> Tensor:
    """Rows x [rows, d_model] with amount [rows, columns] of directions [columns, d_model] added."""
    return torch.addmm(x, amount, directions)


def reconstruct_rows(x: Tensor, sae: SparseAutoencoder, rows: Tensor, factors: Tensor) -> Tensor:
    """x [rows, d_model] with `rows` moved towards their reconstruction, by factors [rows] from 0 to 1."""
    resid = x[rows]
    # lerp gives its end exactly at 1.
    moved = torch.lerp(resid, sae.decode(sae.encode(resid)), factors.unsqueeze(1))
    return x.index_copy(0, rows, moved)


def keep_lengths(edited: Tensor, x: Tensor, preserve: Tensor) -> Tensor:
    """The edited rows, those of `preserve` [rows] brought back to the length that they have in x."""
    lengths = edited.norm(dim=1)
    scale = torch.where(preserve & (lengths > 0), x.norm(dim=1) / lengths, 1.0)
    return edited * scale.unsqueeze(1)
