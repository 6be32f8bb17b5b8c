"""Chunks of rows in, shuffled batches out: fill, shuffle, emit half, refill."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import NamedTuple

import torch
from torch import Tensor

from sae_train.activations.row_chunk import RowChunk, RowCounts, StreamPlace
from sae_train.activations.seeds import derived_generator

Chunks = Generator[tuple[RowChunk, StreamPlace], None, None]


class MixedBatch(NamedTuple):
    """Rows drawn from all over the buffer."""

    acts: Tensor
    """[batch, hook_points, d_model] float16."""
    special: Tensor
    """[batch] bool."""


class MixingBuffer:
    """Holds `buffer_rows` rows of an endless stream and gives batches of them in random order.

    Full, it draws an order of its rows, gives the first half of them (in whole batches), and puts new rows in
    their slots. Rows keep their dtype; the batches follow from the stream and the seed alone, and a restored
    buffer gives the very batches that the saved one would have given. Not thread-safe.
    """

    def __init__(
        self,
        chunks: Callable[[StreamPlace], Chunks],
        *,
        batch_size: int,
        buffer_rows: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """Begin empty; `chunks` starts the stream at a place, `device` is where the rows are held."""
        assert buffer_rows >= batch_size
        self.counts = RowCounts()
        """Of all chunks taken in so far."""
        self._start = chunks
        self._batch_size = batch_size
        self._buffer_rows = buffer_rows
        self._generator = derived_generator(seed, "buffer")
        self._device = torch.device(device)
        self._chunks: Chunks | None = None
        self._place = StreamPlace()
        self._held: RowChunk | None = None  # the buffer's memory; its first size is buffer_rows
        self._rest: RowChunk | None = None  # what the last chunk has beyond the full buffer
        self._order = torch.zeros(0, dtype=torch.int64)  # slots to be given until the next refill
        self._given = 0

    def next_batch(self) -> MixedBatch:
        """Return the next rows, in memory of their own; fills the buffer when it is its time."""
        if self._given == len(self._order):
            self._refill()
        assert self._held is not None
        slots = self._order[self._given : self._given + self._batch_size].to(self._device)
        self._given += self._batch_size
        return MixedBatch(self._held.acts.index_select(0, slots), self._held.special.index_select(0, slots))

    def close(self) -> None:
        """End the stream, and its thread if it has one; the next batch starts it again where it was."""
        if self._chunks is not None:
            self._chunks.close()
            self._chunks = None

    def state(self) -> dict[str, Tensor]:
        """Return all that decides the batches to come, without copies: write it before the next batch."""
        tensors = {
            "place": torch.tensor(self._place),
            "counts": torch.tensor([self.counts.kept, self.counts.dropped, *self.counts.outliers]),
            "generator": self._generator.get_state(),
            "order": self._order,
            "given": torch.tensor(self._given),
        }
        for name, rows in (("held", self._held), ("rest", self._rest)):
            if rows is not None:
                tensors |= {f"{name}.acts": rows.acts, f"{name}.special": rows.special}
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on as the buffer that gave this state would have; the tensors become this buffer's own."""
        self.close()
        self._place = StreamPlace(*tensors["place"].tolist())
        kept, dropped, *outliers = tensors["counts"].tolist()
        self.counts = RowCounts(kept=kept, dropped=dropped, outliers=tuple(outliers))
        self._generator.set_state(tensors["generator"].cpu())
        self._order = tensors["order"].cpu()
        self._given = int(tensors["given"])
        self._held, self._rest = (
            RowChunk(
                acts=tensors[f"{name}.acts"].to(self._device),
                special=tensors[f"{name}.special"].to(self._device),
            )
            if f"{name}.acts" in tensors
            else None
            for name in ("held", "rest")
        )

    def _refill(self) -> None:
        self._fill(torch.arange(self._buffer_rows) if self._held is None else self._order)
        half = max(1, self._buffer_rows // 2 // self._batch_size) * self._batch_size
        # A copy: a view would keep, and save, the whole permutation.
        self._order = torch.randperm(self._buffer_rows, generator=self._generator)[:half].clone()
        self._given = 0

    def _fill(self, free: Tensor) -> None:
        """Put rows of the stream into the free slots, and keep aside what the last chunk has beyond them."""
        while len(free):
            chunk = self._rest or self._next_chunk()
            held = self._held or self._allocate(chunk)
            taken = min(len(free), len(chunk.acts))
            slots = free[:taken].to(self._device)
            held.acts.index_copy_(0, slots, chunk.acts[:taken])
            held.special.index_copy_(0, slots, chunk.special[:taken])
            free = free[taken:]
            left = RowChunk(acts=chunk.acts[taken:], special=chunk.special[taken:])
            self._rest = left if len(left.acts) else None

    def _allocate(self, like: RowChunk) -> RowChunk:
        self._held = RowChunk(
            acts=like.acts.new_empty(self._buffer_rows, *like.acts.shape[1:]),
            special=like.special.new_empty(self._buffer_rows),
        )
        return self._held

    def _next_chunk(self) -> RowChunk:
        if self._chunks is None:
            self._chunks = self._start(self._place)
        chunk, self._place = next(self._chunks)
        self.counts += chunk.counts
        return RowChunk(acts=chunk.acts.to(self._device), special=chunk.special.to(self._device))
