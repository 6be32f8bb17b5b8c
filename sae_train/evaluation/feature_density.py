"""How often features fire: the dead, the rare, the dense, and the whole distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

DENSITY_TOKENS = 100_000
"""Tokens on which densities are counted: fixed, because fewer features seem dead on more tokens."""

_DENSE = 0.1
_ULTRA_RARE = 1e-6
_BIN_EDGES = np.linspace(-6.0, 0.0, 25)  # of log10 density


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureDensity:
    """Counts of features by density, the share of tokens on which a feature is active."""

    tokens: int
    """Tokens counted: the first `DENSITY_TOKENS`, or all where there are fewer."""
    dead: int
    """Features that none of them activated; rare ones are among them."""
    ultra_rare: int
    """Features, not dead, of a density below `ultra_rare_below`."""
    ultra_rare_below: float
    """1e-6, or 2 / tokens where that is more: then these are the features that fired once."""
    dense: int
    """Features active on more than 10 % of the tokens."""
    log10_bin_edges: tuple[float, ...]
    log10_counts: tuple[int, ...]
    """Features, not dead, in each bin of log10 density; the lowest bin takes all below it too."""
    log10_quantiles: dict[int, float]
    """Percentile -> log10 density of the features that are not dead; NaN when all are."""


def feature_density(active: Tensor, tokens: int) -> FeatureDensity:
    """Summarise on how many of `tokens` tokens each feature was active, [d_sae] int64."""
    density = active.double() / tokens
    logs = density[active > 0].log10().clamp(min=_BIN_EDGES[0]).numpy()
    ultra_rare_below = max(_ULTRA_RARE, 2 / tokens)
    return FeatureDensity(
        tokens=tokens,
        dead=int((active == 0).sum()),
        ultra_rare=int(((active > 0) & (density < ultra_rare_below)).sum()),
        ultra_rare_below=ultra_rare_below,
        dense=int((density > _DENSE).sum()),
        log10_bin_edges=tuple(_BIN_EDGES.tolist()),
        log10_counts=tuple(np.histogram(logs, _BIN_EDGES)[0].tolist()),
        log10_quantiles={p: _quantile(density, active, p) for p in (5, 25, 50, 75, 95)},
    )


def _quantile(density: Tensor, active: Tensor, percentile: int) -> float:
    alive = density[active > 0]
    return float(alive.log10().quantile(percentile / 100)) if len(alive) else math.nan


def count_active(feature_acts: Tensor, *, before: int) -> Tensor:
    """Return on how many of the first `before` rows each feature is active, [d_sae] int64 on the CPU."""
    return torch.count_nonzero(feature_acts[: max(0, before)], dim=0).cpu()
