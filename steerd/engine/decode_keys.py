"""Where the keys of a decode step are, in tensors that stay from step to step.

Each request has one row in such a step. How many there are, and how many keys the longest has, is rounded up
to powers of 2, so that few shapes come up: rows of nobody see one key of no request, and keys that are not
there yet are masked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_LEAST_WIDTH = 64


class DecodeKeys:
    """`plan` before each forward. Then, for its rows and `width` keys: `places` [rows, width] in the cache,
    what is added to the scores as `mask` [rows, 1, 1, width], and `write` [rows], the places of the new keys.

    `version` grows when the tensors move.
    """

    def __init__(
        self, *, page: int, zeros: int, nobody: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Blocks have `page` tokens. That of `zeros` is never written, that of `nobody` by padding rows."""
        self._page = page
        self._zeros = zeros
        self._nobody = nobody
        self._dtype = dtype
        self._device = device
        self._blocks: list[list[int]] = []
        self.version = 0
        self._allocate(0)
        self._shape(0, 0)

    def plan(self, blocks: Sequence[Sequence[int]], num_keys: Sequence[int], num_rows: int) -> None:
        """Lay out a step whose first rows have these blocks, in order, and see so many keys each."""
        width = max(_LEAST_WIDTH, 1 << (max(num_keys) - 1).bit_length())
        if num_rows * width > len(self._places):
            self._allocate(num_rows * width)
        if blocks != self._blocks or (num_rows, width) != tuple(self.places.shape):
            self._shape(num_rows, width)
            self._blocks = [list(own) for own in blocks]
            self.places.copy_(torch.from_numpy(self._all_places()))
        rows = np.zeros((2, num_rows), dtype=np.int64)
        rows[:, len(blocks) :] = [[1], [self._nobody * self._page]]
        rows[0, : len(blocks)] = num_keys
        for row, (own, last) in enumerate(zip(blocks, num_keys, strict=True)):
            page, offset = divmod(last - 1, self._page)
            rows[1, row] = own[page] * self._page + offset
        seen, write = torch.from_numpy(rows).to(self._device)
        self.write.copy_(write)
        is_seen = self._numbers[:width] < seen.unsqueeze(1)  # [rows, width]
        self.mask.zero_().masked_fill_(~is_seen[:, None, None], float("-inf"))

    @property
    def width(self) -> int:
        """How many keys each row is shown."""
        return self.places.shape[1]

    def _all_places(self) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        num_rows, width = self.places.shape
        places = np.full((num_rows, width), self._nobody * self._page, dtype=np.int64)
        # What is masked is weighted with zero, so it must be finite.
        places[: len(self._blocks)] = self._zeros * self._page
        for row, own in enumerate(self._blocks):
            tokens = np.array(own, dtype=np.int64)[:, None] * self._page + np.arange(self._page)
            places[row, : tokens.size] = tokens.ravel()[:width]
        return places

    def _shape(self, num_rows: int, width: int) -> None:
        """Show so much of what was allocated; for a shape it is always the same part."""
        size = num_rows * width
        self.places: Tensor = self._places[:size].view(num_rows, width)
        self.mask: Tensor = self._mask[:size].view(num_rows, 1, 1, width)
        self.write: Tensor = self._write[:num_rows]

    def _allocate(self, size: int) -> None:
        self.version += 1
        self._places = torch.zeros(size, dtype=torch.int64, device=self._device)
        self._mask = torch.zeros(size, dtype=self._dtype, device=self._device)
        self._write = torch.zeros(size, dtype=torch.int64, device=self._device)
        self._numbers = torch.arange(size, device=self._device)
