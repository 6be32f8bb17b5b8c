"""What was seen of each feature over a pass: counts, sums, mass by token and by source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sae_train.features.observed_rows import ActiveEntries, ObservedRows
from steerd.sae.feature_files import FeatureStatistics

_PENDING_LIMIT = 8_000_000  # (feature, token) pairs held before equal ones are summed up


@dataclass(frozen=True, slots=True)
class TokenMass:
    """Summed squared activation by (feature, token), as triples sorted by feature."""

    features: NDArray[np.int64]
    token_ids: NDArray[np.int64]
    mass: NDArray[np.float64]


class FeatureObservations:
    """Gathers, batch after batch: counts and sums, squared mass by token and by source."""

    def __init__(self, d_sae: int, *, vocab_size: int, num_sources: int) -> None:
        self.rows = 0
        self.active = np.zeros(d_sae)
        self.total = np.zeros(d_sae)
        self.largest = np.zeros(d_sae, dtype=np.float32)
        self.source_mass = np.zeros((d_sae, num_sources))
        self.source_rows = np.zeros(num_sources)
        self.token_rows = np.zeros(vocab_size)
        self._keys: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._mass: NDArray[np.float64] = np.zeros(0)
        self._pending: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []

    def update(self, observed: ObservedRows, entries: ActiveEntries) -> None:
        """Take in a batch of rows and its active entries."""
        d_sae, num_sources = self.source_mass.shape
        self.rows += len(observed.token_ids)
        self.source_rows += np.bincount(observed.sources, minlength=num_sources)
        self.token_rows += np.bincount(observed.token_ids, minlength=len(self.token_rows))
        self.active += np.bincount(entries.features, minlength=d_sae)
        self.total += np.bincount(entries.features, weights=entries.values, minlength=d_sae)
        np.maximum.at(self.largest, entries.features, entries.values)
        # Strong activations say more about a feature than many weak ones.
        squares = np.square(entries.values, dtype=np.float64)
        by_source = entries.features * num_sources + entries.sources
        self.source_mass += np.bincount(by_source, squares, d_sae * num_sources).reshape(d_sae, num_sources)
        self._pending.append((entries.features * len(self.token_rows) + entries.token_ids, squares))
        if sum(len(keys) for keys, _ in self._pending) > _PENDING_LIMIT:
            self._merge_pending()

    def token_mass(self) -> TokenMass:
        """Return the activation mass by feature and token."""
        self._merge_pending()
        features, token_ids = np.divmod(self._keys, len(self.token_rows))
        return TokenMass(features=features, token_ids=token_ids, mass=self._mass)

    def statistics(self) -> FeatureStatistics:
        """Return what the SAE's file records."""
        return FeatureStatistics(
            max_activation=torch.from_numpy(self.largest.copy()),
            density=torch.from_numpy(self.active / max(self.rows, 1)).float(),
            mean_activation=torch.from_numpy(self.total / np.maximum(self.active, 1)).float(),
            dead=torch.from_numpy(self.active == 0),
        )

    def _merge_pending(self) -> None:
        keys = np.concatenate([self._keys, *(keys for keys, _ in self._pending)])
        mass = np.concatenate([self._mass, *(mass for _, mass in self._pending)])
        self._keys, inverse = np.unique(keys, return_inverse=True)
        self._mass = np.bincount(inverse, weights=mass, minlength=len(self._keys)).astype(np.float64)
        self._pending.clear()
