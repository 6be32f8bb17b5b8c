"""Activations written out by hand, observed as a pass over cached rows does."""

from __future__ import annotations

import numpy as np
import torch

from sae_train.features.feature_observations import FeatureObservations
from sae_train.features.largest_places import LargestPlaces
from sae_train.features.observed_rows import ObservedRows, active_entries

VOCAB_SIZE = 259


def observe(
    acts: list[list[float]], tokens: str, sources: list[int], places: LargestPlaces | None = None
) -> FeatureObservations:
    """Two sources; one row a byte of `tokens`, in batches of two rows, every three rows a sequence."""
    seen = FeatureObservations(len(acts[0]), vocab_size=VOCAB_SIZE, num_sources=2)
    for start in range(0, len(acts), 2):
        part = slice(start, start + 2)
        observed = ObservedRows(
            token_ids=np.array(list(tokens.encode()))[part],
            sources=np.array(sources)[part],
            places=np.arange(len(acts))[part],
            sequences=np.arange(len(acts))[part] // 3,
        )
        entries = active_entries(torch.tensor(acts)[part], observed)
        seen.update(observed, entries)
        if places is not None:
            places.update(entries, entries.values)
    return seen
