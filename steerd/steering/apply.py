"""The arithmetic of steering: pure functions of tensors, run inside the host's forward.

rows: residual rows of a step; columns: features of a table; edits: (row, column, gain, bias) quadruples.
Everything is float32 whatever the host computes in; the caller rounds once.
"""

from __future__ import annotations

import torch
from torch import Tensor


def read_columns(x: Tensor, enc: Tensor, b_enc: Tensor, threshold: Tensor) -> Tensor:
    """Activations [rows, columns] of features whose encoder vectors are the rows of enc [columns, d_model].

    A feature is active where its pre-activation is positive and strictly above its threshold (0 for ReLU).
    """
    pre_acts = torch.addmm(b_enc, x, enc.T)  # [rows, columns]
    return torch.relu(pre_acts) * (pre_acts > threshold)


def edit_deltas(
    acts: Tensor, directions: Tensor, rows: Tensor, columns: Tensor, gain: Tensor, bias: Tensor
) -> Tensor:
    """What each edit adds to its row, [edits, d_model]: (gain * z + bias) * d."""
    amount = gain * acts[rows, columns] + bias  # [edits]
    return amount.unsqueeze(1) * directions[columns]
