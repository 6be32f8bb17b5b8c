"""What is read and edited at one hook point, gathered once so that a step only multiplies."""

from __future__ import annotations

import heapq
from math import inf
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from steerd.sae.activation_function import JumpReLU
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.steering.apply import read_columns
from steerd.steering.intervention import Direction, FeatureRef

INITIAL_CAPACITY = 64

ColumnTarget = FeatureRef | Direction


class _Key(NamedTuple):
    target: ColumnTarget
    sae: SparseAutoencoder | None
    copy: int


class PointTable:
    """The features and directions of one hook point that somebody reads or edits, each in a column.

    `acquire` and `release` are counted, so a target keeps its column while anyone needs it and costs nothing
    afterwards; copies of a target have columns of their own, and so has a feature of an SAE that took the
    place of another of the same name. A columnwise SAE (ReLU, JumpReLU) is read at O(d_model) per column; a
    TopK SAE has to encode its whole dictionary, of which the columns are then taken. What may be added stands
    in `directions` [capacity, d_model], `lengths` [capacity] long. `version` grows when that moves.
    """

    def __init__(self, d_model: int, device: torch.device, *, is_fixed: bool = False) -> None:
        """When `is_fixed`, free columns are read as well, for a width that seldom changes."""
        self.is_fixed = is_fixed
        self.version = 0
        self._d_model = d_model
        self._device = device
        self._columns: dict[_Key, int] = {}
        self._keys: dict[int, _Key] = {}  # by column
        self._uses: dict[int, int] = {}  # by column
        self._free: list[int] = []
        self._encoded_whole: list[tuple[SparseAutoencoder, Tensor, Tensor]] = []
        self.num_columns = 0
        self._allocate(INITIAL_CAPACITY)

    @property
    def width(self) -> int:
        """How many columns are read."""
        return len(self._b_enc) if self.is_fixed else self.num_columns

    @property
    def encodes_whole(self) -> bool:
        """Whether some SAE has to encode its whole dictionary."""
        return bool(self._encoded_whole)

    def acquire(self, target: ColumnTarget, sae: SparseAutoencoder | None = None, copy: int = 0) -> int:
        """The target's column, given to it now unless it has one; `sae` is that of a feature.

        Holds nothing when it raises, as for want of memory.
        """
        key = _Key(target, sae, copy)
        if key not in self._columns:
            self._give_column(key)
        self._uses[self._columns[key]] += 1
        return self._columns[key]

    def release(self, column: int) -> None:
        """Undo one `acquire` that gave this column."""
        self._uses[column] -= 1
        if self._uses[column] == 0:
            self._take_back(column)
            self._find_encoded_whole()

    def read(self, x: Tensor) -> Tensor:
        """Activations and projections [rows, width] of rows x [rows, d_model] in float32."""
        used = slice(0, self.width)
        acts = read_columns(x, self._enc[used], self._b_enc[used], self._threshold[used])
        for sae, columns, features in self._encoded_whole:
            acts.index_copy_(1, columns, sae.encode(x)[:, features])
        return acts

    def _give_column(self, key: _Key) -> None:
        column = self._take_column()
        self._columns[key], self._keys[column], self._uses[column] = column, key, 0
        try:
            self._fill(column, key.target, key.sae)
            self._find_encoded_whole()
        except BaseException:
            self._take_back(column)
            raise

    def _take_back(self, column: int) -> None:
        del self._uses[column], self._columns[self._keys.pop(column)]
        heapq.heappush(self._free, column)
        self._shrink()

    def _take_column(self) -> int:
        if self._free:
            return heapq.heappop(self._free)
        if self.num_columns == len(self._b_enc):
            self._grow()
        self.num_columns += 1
        return self.num_columns - 1

    def _fill(self, column: int, target: ColumnTarget, sae: SparseAutoencoder | None) -> None:
        if isinstance(target, Direction):
            unit = torch.tensor(target.values, device=self._device)
            self._enc[column], self.directions[column] = unit, unit
            self._b_enc[column], self._threshold[column] = 0.0, -inf
            self.lengths[column] = 1.0
            return
        assert sae is not None, "a feature is one of an SAE"
        feature = target.index
        self.directions[column] = sae.W_dec[feature]
        self.lengths[column] = float(sae.W_dec[feature].norm())
        self._enc[column], self._b_enc[column] = sae.W_enc[:, feature], sae.b_enc[feature]
        self._threshold[column] = 0.0
        if isinstance(sae.activation, JumpReLU):
            self._threshold[column] = sae.activation.threshold[feature].clamp(min=0.0)

    def _find_encoded_whole(self) -> None:
        """The columns of SAEs that have to encode everything, and the features that stand there."""
        found: dict[SparseAutoencoder, list[tuple[int, int]]] = {}
        for column, key in self._keys.items():
            if key.sae is not None and not key.sae.activation.columnwise:
                assert isinstance(key.target, FeatureRef)
                found.setdefault(key.sae, []).append((column, key.target.index))
        encoded_whole = []
        for sae, pairs in found.items():
            columns, features = torch.tensor(pairs, device=self._device).unbind(dim=1)
            encoded_whole.append((sae, columns, features))
        self._encoded_whole = encoded_whole

    def _shrink(self) -> None:
        """Give back free columns at the end; the order of the others is kept."""
        last_used = max(self._keys, default=-1)
        self.num_columns = last_used + 1
        self._free = [column for column in self._free if column < self.num_columns]
        heapq.heapify(self._free)

    def _grow(self) -> None:
        kept, lengths = (self._enc, self.directions, self._b_enc, self._threshold), self.lengths
        capacity = len(self._b_enc)
        self._allocate(2 * capacity)
        grown = self._enc, self.directions, self._b_enc, self._threshold
        for new, old in zip(grown, kept, strict=True):
            new[:capacity] = old
        self.lengths[:capacity] = lengths

    def _allocate(self, capacity: int) -> None:
        # All before any takes the place of what is there, should memory not be enough.
        vectors = [torch.zeros(capacity, self._d_model, device=self._device) for _ in range(2)]
        numbers = [torch.zeros(capacity, device=self._device) for _ in range(2)]
        self._enc, self.directions = vectors
        self._b_enc, self._threshold = numbers
        self.lengths = np.zeros(capacity, dtype=np.float32)
        self.version += 1
