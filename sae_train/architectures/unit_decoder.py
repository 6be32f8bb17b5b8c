"""The constraint that decoder rows have norm 1: kept to first order by the gradient, then exactly."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def remove_parallel_gradient(W_dec: nn.Parameter) -> None:
    """Take from the gradient of each unit row of W_dec [d_sae, d_model] what would change its norm."""
    assert W_dec.grad is not None
    along = torch.linalg.vecdot(W_dec.grad, W_dec).unsqueeze(1)  # [d_sae, 1]
    W_dec.grad.addcmul_(along, W_dec, value=-1)


@torch.no_grad()
def normalise_rows(W_dec: Tensor) -> None:
    """Bring every row of W_dec [d_sae, d_model] back to norm 1."""
    W_dec.div_(torch.linalg.vector_norm(W_dec, dim=1, keepdim=True))
