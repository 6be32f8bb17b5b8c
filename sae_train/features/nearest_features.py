"""The features whose decoder directions point most alike: what a split or twin feature shows up as."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_FEATURES_AT_ONCE = 512


class NearestFeatures(NamedTuple):
    """The nearest features of each, nearest first, every tensor [features, count]."""

    features: Tensor
    cosines: Tensor


def nearest_features(W_dec: Tensor, *, count: int, features: int | None = None) -> NearestFeatures:
    """Return the `count` nearest of all directions [d_sae, d_model] for the first `features` features.

    A direction of length zero is nobody's neighbour before all others. With fewer than `count` other features
    there are as many as there are.
    """
    count = min(count, len(W_dec) - 1)
    directions = W_dec.float() / W_dec.float().norm(dim=1, keepdim=True).clamp(min=1e-12)
    found = []
    for start in range(0, len(directions[:features]), _FEATURES_AT_ONCE):
        chunk = directions[:features][start : start + _FEATURES_AT_ONCE]
        cosines = chunk @ directions.t()  # [chunk, d_sae]
        own = torch.arange(len(chunk))
        cosines[own, own + start] = -torch.inf
        found.append(cosines.topk(count, dim=1))
    return NearestFeatures(
        features=torch.cat([top.indices for top in found]), cosines=torch.cat([top.values for top in found])
    )
