"""Chunks of rows in, shuffled batches out: fill, shuffle, emit half, refill."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


def mixed_batches(
    chunks: Iterable[Tensor], *, batch_size: int, buffer_rows: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield batches [batch_size, ...] of rows drawn at random from at least `buffer_rows` of the stream.

    Rows keep their dtype. At the stream's end the rest is emitted; what does not fill a batch is left out.
    The order is a function of the chunks and the generator's state alone.
    """
    held: list[Tensor] = []
    for chunk in chunks:
        held.append(chunk)
        if sum(map(len, held)) < buffer_rows:
            continue
        rows = _shuffle(held, generator)
        emitted = max(1, len(rows) // 2 // batch_size) * batch_size
        yield from _batches(rows[:emitted], batch_size)
        held = [rows[emitted:]]
    if held:
        yield from _batches(_shuffle(held, generator), batch_size)


def _batches(rows: Tensor, batch_size: int) -> Iterator[Tensor]:
    for start in range(0, len(rows) - batch_size + 1, batch_size):
        yield rows[start : start + batch_size]


def _shuffle(chunks: list[Tensor], generator: torch.Generator) -> Tensor:
    rows = torch.cat(chunks)
    return rows[torch.randperm(len(rows), generator=generator)]
