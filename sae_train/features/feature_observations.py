"""What was seen of each feature over a pass: counts, sums, mass by token and by source, strongest places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steerd.sae.feature_files import FeatureStatistics

_PENDING_LIMIT = 8_000_000  # (feature, token) pairs held before equal ones are summed up


@dataclass(frozen=True, slots=True)
class ObservedRows:
    """A batch of rows and where they come from."""

    token_ids: Tensor  # [rows]
    sources: Tensor  # [rows], index of each row's source
    places: Tensor  # [rows], any number that finds the row again


@dataclass(frozen=True, slots=True)
class TokenMass:
    """Summed squared activation by (feature, token), as triples sorted by feature."""

    features: NDArray[np.int64]
    token_ids: NDArray[np.int64]
    mass: NDArray[np.float64]


class FeatureObservations:
    """Gathers, batch after batch: counts and sums, squared mass by token and by source, strongest places."""

    def __init__(self, d_sae: int, *, vocab_size: int, num_sources: int, num_places: int) -> None:
        self.rows = 0
        self.active = torch.zeros(d_sae, dtype=torch.float64)
        self.total = torch.zeros(d_sae, dtype=torch.float64)
        self.top_values = torch.zeros(d_sae, num_places)
        self.top_places = torch.zeros(d_sae, num_places, dtype=torch.long)
        self.source_mass = torch.zeros(d_sae * num_sources, dtype=torch.float64)
        self.source_rows = torch.zeros(num_sources, dtype=torch.float64)
        self.token_rows = torch.zeros(vocab_size, dtype=torch.float64)
        self._num_sources = num_sources
        self._vocab_size = vocab_size
        self._keys: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._mass: NDArray[np.float64] = np.zeros(0, dtype=np.float64)
        self._pending: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []

    def update(self, feature_acts: Tensor, observed: ObservedRows) -> None:
        """Take in activations [rows, d_sae] of a batch; its strongest row is one place of each feature."""
        self.rows += len(feature_acts)
        rows, features = feature_acts.nonzero(as_tuple=True)
        values = feature_acts[rows, features].double()
        self.active.index_add_(0, features, torch.ones_like(values))
        self.total.index_add_(0, features, values)
        squares = values.square()  # strong activations say more about a feature than many weak ones
        self.source_mass.index_add_(0, features * self._num_sources + observed.sources[rows], squares)
        self.source_rows.index_add_(0, observed.sources, torch.ones(len(observed.sources)).double())
        self.token_rows.index_add_(0, observed.token_ids, torch.ones(len(observed.token_ids)).double())
        keys = features * self._vocab_size + observed.token_ids[rows]
        self._pending.append((keys.numpy(), squares.numpy()))
        if sum(len(keys) for keys, _ in self._pending) > _PENDING_LIMIT:
            self._merge_pending()
        self._add_places(feature_acts, observed.places)

    def token_mass(self) -> TokenMass:
        """Return the activation mass by feature and token."""
        self._merge_pending()
        features, token_ids = np.divmod(self._keys, self._vocab_size)
        return TokenMass(features=features, token_ids=token_ids, mass=self._mass)

    def statistics(self) -> FeatureStatistics:
        """Return what the SAE's file records."""
        return FeatureStatistics(
            max_activation=self.top_values[:, 0].clone(),
            density=(self.active / max(self.rows, 1)).float(),
            mean_activation=(self.total / self.active.clamp(min=1)).float(),
            dead=self.active == 0,
        )

    def _merge_pending(self) -> None:
        keys = np.concatenate([self._keys, *(keys for keys, _ in self._pending)])
        mass = np.concatenate([self._mass, *(mass for _, mass in self._pending)])
        self._keys, inverse = np.unique(keys, return_inverse=True)
        self._mass = np.bincount(inverse, weights=mass, minlength=len(self._keys)).astype(np.float64)
        self._pending.clear()

    def _add_places(self, feature_acts: Tensor, places: Tensor) -> None:
        values, rows = feature_acts.max(dim=0)
        top = torch.cat([self.top_values, values.unsqueeze(1)], dim=1)
        where = torch.cat([self.top_places, places[rows].unsqueeze(1)], dim=1)
        self.top_values, order = top.topk(self.top_values.shape[1], dim=1)
        self.top_places = where.gather(1, order)
