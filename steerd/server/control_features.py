"""Features to compare one with: of like density, and in another direction."""

from __future__ import annotations

import torch

from steerd.steering.intervention import FeatureRef
from steerd.steering.loaded_saes import LoadedSaes

_LARGEST_COSINE = 0.3


def control_features(
    saes: LoadedSaes, feature: FeatureRef, count: int
) -> tuple[tuple[FeatureRef, float], ...]:
    """At most `count` others of its SAE, and what a strength is multiplied by for a push of equal length.

    Without statistics the features after it are taken, as densities are not known.
    """
    loaded = saes.get(feature.sae)
    directions = loaded.sae.W_dec.float()  # [d_sae, d_model]
    lengths = directions.norm(dim=1)
    mine = lengths[feature.index]
    cosines = (directions @ directions[feature.index]) / (lengths * mine).clamp_min(1e-12)
    allowed = (cosines.abs() <= _LARGEST_COSINE) & (lengths > 0)
    if loaded.statistics is None:
        distance = (torch.arange(len(lengths)) - feature.index) % len(lengths)
    else:
        statistics = loaded.statistics
        allowed &= ~statistics.dead.to(allowed.device) & (statistics.density > 0).to(allowed.device)
        density = statistics.density.double().clamp_min(1e-12).log()
        distance = (density - density[feature.index]).abs()
    allowed[feature.index] = False
    distance = torch.where(allowed.cpu(), distance.double(), torch.inf)
    nearest = distance.argsort(stable=True)[:count].tolist()
    return tuple(
        (FeatureRef(feature.sae, index), float(mine / lengths[index]))
        for index in nearest
        if distance[index] < torch.inf
    )
