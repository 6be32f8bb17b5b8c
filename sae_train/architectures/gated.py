"""The gated SAE: one path decides which features are active, another how much (arXiv 2404.16014)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class GatedSettings:
    """What a gated SAE is trained with."""

    l1_coefficient: float = 5.0
    """Weight of the gate's sparsity penalty, for inputs whose mean squared norm is d_model."""
