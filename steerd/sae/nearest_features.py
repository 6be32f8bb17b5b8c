"""The features whose directions point most alike: what a split or twin feature shows up as."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_FEATURES_AT_ONCE = 512


class NearestFeatures(NamedTuple):
    """The nearest features, nearest first; of several features every tensor is [features, count]."""

    features: Tensor
    cosines: Tensor


def nearest_features(W_dec: Tensor, *, count: int, features: int | None = None) -> NearestFeatures:
    """Return the `count` nearest of all directions [d_sae, d_model] for the first `features` features.

    A direction of length zero is nobody's neighbour before all others. With fewer than `count` other features
    there are as many as there are.
    """
    count = min(count, len(W_dec) - 1)
    directions = _unit(W_dec)
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


def nearest_to(direction: Tensor, dictionary: Tensor, *, count: int) -> NearestFeatures:
    """Return the `count` rows of a dictionary [features, d_model] nearest to a direction [d_model].

    Both tensors of the answer are [count]; with fewer features there are as many as there are.
    """
    direction = direction.double()  # its square may be too large or too small for float32
    unit = (direction / direction.norm().clamp(min=1e-300)).float()
    cosines = _unit(dictionary) @ unit.to(dictionary.device)
    top = cosines.topk(min(count, len(cosines)))
    return NearestFeatures(features=top.indices, cosines=top.values)


def _unit(rows: Tensor) -> Tensor:
    """The rows at length 1, in float32; those of length zero stay as they are."""
    rows = rows.float()
    unit: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return unit
