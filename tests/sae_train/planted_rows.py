"""Synthetic activations with planted directions, for the trainer's tests."""

from __future__ import annotations

import torch
from torch import Tensor

D_MODEL, TRUE_FEATURES, ACTIVE = 24, 32, 3


def planted_directions() -> Tensor:
    """Unit directions [TRUE_FEATURES, D_MODEL], more than there are dimensions."""
    directions = torch.randn(TRUE_FEATURES, D_MODEL, generator=torch.Generator().manual_seed(7))
    return directions / directions.norm(dim=1, keepdim=True)


def planted_rows(rows: int, seed: int) -> Tensor:
    """Rows [rows, D_MODEL]: a few planted directions each, with random strengths, off centre, plus noise."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(rows, TRUE_FEATURES, generator=generator).topk(ACTIVE, dim=1).indices
    strengths = 1 + torch.rand(rows, ACTIVE, generator=generator)
    acts = torch.zeros(rows, TRUE_FEATURES).scatter(1, chosen, strengths)
    noise = 0.02 * torch.randn(rows, D_MODEL, generator=generator)
    return 8 * (acts @ planted_directions() + noise + 0.3)
