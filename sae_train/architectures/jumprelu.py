"""The JumpReLU SAE: a feature is active above a threshold of its own, learnt by a straight-through kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class JumpReLUSettings:
    """What a JumpReLU SAE is trained with."""

    target_l0: float
    """Mean active features a row: where the thresholds start, and what the quadratic loss keeps to."""
    sparsity_loss: Literal["quadratic", "step"] = "quadratic"
    """quadratic: l0_coefficient * (L0 / target_l0 - 1)^2; step: l0_coefficient * L0."""
    l0_coefficient: float = 1.0
    """Weight of the sparsity loss next to the mean squared error per number."""
    bandwidth: float = 0.1
    """Width of the kernel around a threshold within which it learns, where pre-activations are of order 1."""
