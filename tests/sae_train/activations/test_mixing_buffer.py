from __future__ import annotations

import torch
from torch import Tensor

from sae_train.activations.mixing_buffer import mixed_batches


def chunks(sizes: list[int]) -> list[Tensor]:
    numbers = torch.arange(sum(sizes)).unsqueeze(1)
    return list(torch.split(numbers, sizes))


def mixed(sizes: list[int], *, seed: int = 0, dtype: torch.dtype = torch.long) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = [chunk.to(dtype) for chunk in chunks(sizes)]
    return list(mixed_batches(rows, batch_size=4, buffer_rows=20, generator=generator))


def test_batches_are_full_and_every_row_comes_at_most_once() -> None:
    batches = mixed([7, 1, 13, 30, 2, 9])

    assert all(len(batch) == 4 for batch in batches)
    rows = torch.cat(batches).flatten().tolist()
    assert len(rows) == len(set(rows)) == 60


def test_rows_of_a_batch_come_from_all_over_the_buffer() -> None:
    first = mixed([10] * 20)[0].flatten()

    assert first.max() - first.min() > 4


def test_half_of_the_buffer_is_held_back() -> None:
    stream = iter(chunks([10] * 20))
    batches = mixed_batches(stream, batch_size=4, buffer_rows=20, generator=torch.Generator())

    for _ in range(2):
        next(batches)

    assert len(list(stream)) == 18, "two chunks fill the buffer, whose first half is two batches"


def test_the_order_follows_the_seed_and_the_dtype_stays() -> None:
    assert torch.equal(torch.cat(mixed([9] * 9)), torch.cat(mixed([9] * 9)))
    assert not torch.equal(torch.cat(mixed([9] * 9)), torch.cat(mixed([9] * 9, seed=1)))
    assert mixed([9] * 9, dtype=torch.float16)[0].dtype == torch.float16


def test_an_empty_stream_and_a_short_one_give_no_batch() -> None:
    assert mixed([]) == []
    assert mixed([3]) == []
