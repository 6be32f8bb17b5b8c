"""For every feature a few of its places, spread evenly over the order of all its activations."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sae_train.features.largest_places import LargestPlaces
from sae_train.features.observed_rows import ActiveEntries

_SAMPLE = 64  # random places held a feature; their order stands for that of all its activations
_SEED = 0


class SampledPlace(NamedTuple):
    """A place drawn at random among those of about the same activation."""

    percentile: float
    """Per cent of the feature's active tokens that are less active than this one."""
    place: int


class SampledPlaces:
    """Takes in batch after batch; memory does not grow with their number."""

    def __init__(self, num_features: int) -> None:
        self._random = np.random.default_rng(_SEED)
        self._kept = LargestPlaces(num_features, _SAMPLE, one_a_sequence=False)

    def update(self, entries: ActiveEntries) -> None:
        """Take in a batch's entries."""
        self._kept.update(entries, self._random.random(len(entries.values), dtype=np.float32))

    def by_feature(self, count: int) -> list[list[SampledPlace]]:
        """Return up to `count` places a feature, strongest first."""
        return [
            [
                SampledPlace(100 * (1 - (rank + 0.5) / len(order)), int(found.places[order[rank]]))
                for rank in quantile_ranks(len(order), count)
            ]
            for found in self._kept.by_feature()
            for order in [np.argsort(-found.values, kind="stable")]
        ]


def quantile_ranks(length: int, count: int) -> list[int]:
    """Return up to `count` ranks spread evenly over `length`, in the middle of equal parts."""
    if length <= count:
        return list(range(length))
    return [int((i + 0.5) * length / count) for i in range(count)]
