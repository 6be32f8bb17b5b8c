"""For every feature the few entries with the largest keys out of any number, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sae_train.features.observed_rows import ActiveEntries

_PENDING_LIMIT = 1_000_000  # entries held before all but the largest are dropped

_ENTRY = np.dtype(
    [("feature", "i4"), ("key", "f4"), ("value", "f4"), ("place", "i8"), ("sequence", "i8")], align=True
)


class FoundPlaces(NamedTuple):
    """What was kept for one feature, largest key first."""

    values: NDArray[np.float32]
    places: NDArray[np.int64]


class LargestPlaces:
    """Keeps `count` entries a feature.

    With the activations as keys these are a feature's strongest places, with random keys a fair sample of
    all its places. `one_a_sequence` keeps of each sequence only its largest entry.
    """

    def __init__(self, num_features: int, count: int, *, one_a_sequence: bool) -> None:
        self._num_features = num_features
        self._count = count
        self._one_a_sequence = one_a_sequence
        self._floor = np.full(num_features, -np.inf, dtype=np.float32)  # smaller keys cannot matter any more
        self._kept = np.zeros(0, dtype=_ENTRY)
        self._pending: list[NDArray[np.void]] = []
        self._num_pending = 0

    def update(self, entries: ActiveEntries, keys: NDArray[np.float32]) -> None:
        """Take in a batch's entries with their keys [entries]."""
        chosen = np.flatnonzero(keys > self._floor[entries.features])
        block = np.empty(len(chosen), dtype=_ENTRY)
        block["feature"] = entries.features[chosen]
        block["key"] = keys[chosen]
        block["value"] = entries.values[chosen]
        block["place"] = entries.places[chosen]
        block["sequence"] = entries.sequences[chosen]
        self._pending.append(block)
        self._num_pending += len(block)
        if self._num_pending > _PENDING_LIMIT:
            self._prune()

    def by_feature(self) -> Sequence[FoundPlaces]:
        """Return what was kept, one element a feature."""
        self._prune()
        bounds = self._bounds(self._kept)
        return [
            FoundPlaces(values=part["value"], places=part["place"])
            for part in (self._kept[bounds[f] : bounds[f + 1]] for f in range(self._num_features))
        ]

    def _prune(self) -> None:
        entries = np.concatenate([self._kept, *self._pending])
        self._pending.clear()
        self._num_pending = 0
        if self._one_a_sequence:
            entries = _largest_of_each_sequence(entries)
        entries = entries[np.lexsort((-entries["key"], entries["feature"]))]
        bounds = self._bounds(entries)
        rank = np.arange(len(entries)) - bounds[entries["feature"]]
        self._floor[entries["feature"][rank == self._count - 1]] = entries["key"][rank == self._count - 1]
        self._kept = entries[rank < self._count]

    def _bounds(self, entries: NDArray[np.void]) -> NDArray[np.int64]:
        """Where each feature's entries begin, [num_features + 1]."""
        bounds: NDArray[np.int64] = np.searchsorted(entries["feature"], np.arange(self._num_features + 1))
        return bounds


def _largest_of_each_sequence(entries: NDArray[np.void]) -> NDArray[np.void]:
    order = np.lexsort((-entries["key"], entries["sequence"], entries["feature"]))
    entries = entries[order]
    first = np.ones(len(entries), dtype=np.bool_)
    first[1:] = (entries["feature"][1:] != entries["feature"][:-1]) | (
        entries["sequence"][1:] != entries["sequence"][:-1]
    )
    return entries[first]
