"""Directions that are as nearly orthogonal as their number allows."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_directions(num_features: int, d_model: int, generator: torch.Generator) -> Tensor:
    """Return random directions [num_features, d_model] of norm 1."""
    directions: Tensor = torch.randn(num_features, d_model, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    return directions


def spread_apart(directions: Tensor, *, steps: int, learning_rate: float) -> Tensor:
    """Return the unit directions after `steps` of Adam on the sum of their squared cosines.

    The sum over all pairs is the squared norm of directions' [d_model, d_model] second moments, so no matrix
    of all pairs is needed.
    """
    moved = directions.clone()
    optimiser = torch.optim.Adam([moved], lr=learning_rate)
    for _ in range(steps):
        pull = moved @ (moved.t() @ moved)
        along = (pull * moved).sum(dim=1, keepdim=True)
        moved.grad = pull - along * moved  # a row's own square, and any change of its norm, does not count
        optimiser.step()
        moved.div_(moved.norm(dim=1, keepdim=True))
    return moved
