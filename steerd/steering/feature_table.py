"""The encoder vectors and directions that are in use, gathered once so that a step only multiplies."""

from __future__ import annotations

import heapq

import torch
from torch import Tensor

from steerd.sae.activation_function import JumpReLU
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.steering.apply import read_columns

INITIAL_CAPACITY = 64


class FeatureTable:
    """The features of one SAE that somebody reads or edits, each in a column of its own.

    `acquire` and `release` are counted, so a feature keeps its column while anyone needs it and costs nothing
    afterwards. A columnwise SAE (ReLU, JumpReLU) is read at O(d_model) per column; a TopK SAE has to encode
    its whole dictionary, of which the columns are then taken.
    """

    def __init__(self, sae: SparseAutoencoder) -> None:
        self.sae = sae
        self._columns: dict[int, int] = {}
        self._uses: dict[int, int] = {}
        self._free: list[int] = []
        self.num_columns = 0
        self._allocate(INITIAL_CAPACITY)

    def acquire(self, feature: int) -> int:
        """The feature's column, given to it now unless it has one."""
        if feature not in self._columns:
            self._fill(self._take_column(), feature)
        self._uses[feature] = self._uses.get(feature, 0) + 1
        return self._columns[feature]

    def release(self, feature: int) -> None:
        """Undo one `acquire`."""
        self._uses[feature] -= 1
        if self._uses[feature] == 0:
            del self._uses[feature]
            heapq.heappush(self._free, self._columns.pop(feature))
            self._shrink()

    def read(self, x: Tensor) -> Tensor:
        """Activations [rows, num_columns] of the table's features on rows x [rows, d_model] in float32."""
        used = slice(0, self.num_columns)
        if self.sae.activation.columnwise:
            return read_columns(x, self._enc[used], self._b_enc[used], self._threshold[used])
        return self.sae.encode(x)[:, self._features[used]]

    def _take_column(self) -> int:
        if self._free:
            return heapq.heappop(self._free)
        if self.num_columns == len(self._features):
            self._grow()
        self.num_columns += 1
        return self.num_columns - 1

    def _fill(self, column: int, feature: int) -> None:
        self._columns[feature] = column
        self._features[column] = feature
        self._enc[column] = self.sae.W_enc[:, feature]
        self._b_enc[column] = self.sae.b_enc[feature]
        self.directions[column] = self.sae.W_dec[feature]
        if isinstance(self.sae.activation, JumpReLU):
            self._threshold[column] = self.sae.activation.threshold[feature]

    def _shrink(self) -> None:
        """Give back free columns at the end; the order of the others is kept."""
        last_used = max(self._columns.values(), default=-1)
        self.num_columns = last_used + 1
        self._free = [column for column in self._free if column < self.num_columns]
        heapq.heapify(self._free)

    def _grow(self) -> None:
        kept = self._features, self._enc, self._b_enc, self.directions, self._threshold
        capacity = len(self._features)
        self._allocate(2 * capacity)
        for new, old in zip(
            (self._features, self._enc, self._b_enc, self.directions, self._threshold), kept, strict=True
        ):
            new[:capacity] = old

    def _allocate(self, capacity: int) -> None:
        sae, device = self.sae, self.sae.W_enc.device
        self._features = torch.zeros(capacity, dtype=torch.long, device=device)
        self._enc = torch.zeros(capacity, sae.d_model, device=device)
        self._b_enc = torch.zeros(capacity, device=device)
        self.directions = torch.zeros(capacity, sae.d_model, device=device)
        self._threshold = torch.zeros(capacity, device=device)
