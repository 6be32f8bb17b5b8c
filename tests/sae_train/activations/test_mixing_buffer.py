from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_train.activations.mixing_buffer import Chunks, MixedBatch, MixingBuffer
from sae_train.activations.row_chunk import RowChunk, RowCounts, StreamPlace

SIZES = (7, 1, 13, 45, 2, 9)
PASS_ROWS = sum(SIZES)


def numbered_chunks(start: StreamPlace) -> Chunks:
    """An endless stream in chunks of uneven sizes; each row holds its number in the stream, twice."""
    for pass_number in count(start.pass_number):
        first = start.chunk if pass_number == start.pass_number else 0
        for index in range(first, len(SIZES)):
            begin = pass_number * PASS_ROWS + sum(SIZES[:index])
            numbers = torch.arange(begin, begin + SIZES[index])
            yield (
                RowChunk(
                    acts=torch.stack([numbers, -numbers], dim=1).half().unsqueeze(2),
                    special=numbers % 3 == 0,
                    counts=RowCounts(kept=SIZES[index], dropped=1, outliers=(1, 0)),
                ),
                StreamPlace(pass_number, index + 1),
            )


def new_buffer(*, seed: int = 0, batch_size: int = 4, buffer_rows: int = 20) -> MixingBuffer:
    return MixingBuffer(numbered_chunks, batch_size=batch_size, buffer_rows=buffer_rows, seed=seed)


def batches(buffer: MixingBuffer, number: int) -> list[MixedBatch]:
    return [buffer.next_batch() for _ in range(number)]


def rows(found: list[MixedBatch]) -> Tensor:
    return torch.cat([batch.acts[:, 0, 0] for batch in found]).long()


@pytest.mark.parametrize(("batch_size", "buffer_rows"), [(4, 20), (4, 21), (5, 64), (9, 10)])
def test_every_row_comes_once_whole_and_in_full_batches(batch_size: int, buffer_rows: int) -> None:
    found = batches(new_buffer(batch_size=batch_size, buffer_rows=buffer_rows), 100)

    numbers = rows(found)
    assert len(set(numbers.tolist())) == len(numbers) == 100 * batch_size
    assert numbers.max() < 100 * batch_size + buffer_rows
    for batch in found:
        assert batch.acts.shape == (batch_size, 2, 1)
        assert batch.acts.dtype == torch.float16
        assert torch.equal(batch.acts[:, 1], -batch.acts[:, 0])
        assert torch.equal(batch.special, batch.acts[:, 0, 0] % 3 == 0)


def test_half_of_the_buffer_is_given_before_new_rows_come_in() -> None:
    buffer = new_buffer(batch_size=4, buffer_rows=16)

    first, second = rows(batches(buffer, 2)), rows(batches(buffer, 2))

    assert first.max() < 16
    assert second.max() < 24
    assert second.max() >= 16


def test_a_batch_is_drawn_from_all_over_the_buffer() -> None:
    buffer = new_buffer(batch_size=200, buffer_rows=1000)

    first = rows(batches(buffer, 1)).double()

    # A uniform draw of 200 of 1000: mean 499.5 with deviation 18, quarters of about 50.
    assert abs(float(first.mean()) - 499.5) < 90
    assert min(torch.histc(first, bins=4, min=0, max=1000).tolist()) > 25


def test_the_order_follows_from_the_seed() -> None:
    assert torch.equal(rows(batches(new_buffer(), 30)), rows(batches(new_buffer(), 30)))
    assert not torch.equal(rows(batches(new_buffer(), 30)), rows(batches(new_buffer(seed=1), 30)))


# From before the first batch on, at every moment of several fillings, by chunks larger and smaller than half.
@pytest.mark.parametrize("done", [*range(9), 40])
def test_a_restored_buffer_gives_the_batches_that_the_saved_one_gives(tmp_path: Path, done: int) -> None:
    saved = new_buffer(buffer_rows=21)
    batches(saved, done)
    save_file(saved.state(), tmp_path / "state.safetensors")
    expected = batches(saved, 60)

    restored = new_buffer(buffer_rows=21, seed=99)
    batches(restored, 3)
    restored.restore(load_file(tmp_path / "state.safetensors"))
    found = batches(restored, 60)

    for batch, other in zip(found, expected, strict=True):
        assert torch.equal(batch.acts, other.acts)
        assert torch.equal(batch.special, other.special)
    assert restored.counts == saved.counts


def test_batches_are_not_changed_by_later_ones() -> None:
    buffer = new_buffer()
    first = buffer.next_batch()
    before = first.acts.clone()

    batches(buffer, 20)

    assert torch.equal(first.acts, before)


def test_counts_are_of_all_chunks_taken_in() -> None:
    buffer = new_buffer(buffer_rows=21)

    batches(buffer, 1)

    assert buffer.counts == RowCounts(kept=21, dropped=3, outliers=(3, 0))
    batches(buffer, 2)
    assert buffer.counts == RowCounts(kept=21 + 45, dropped=4, outliers=(4, 0))


def test_a_closed_buffer_ends_its_stream_and_goes_on_where_it_was() -> None:
    ended: list[bool] = []

    def chunks(start: StreamPlace) -> Chunks:
        try:
            yield from numbered_chunks(start)
        finally:
            ended.append(True)

    buffer = MixingBuffer(chunks, batch_size=4, buffer_rows=20, seed=0)
    found = batches(buffer, 5)
    buffer.close()
    assert ended == [True]

    found += batches(buffer, 20)
    assert torch.equal(rows(found), rows(batches(new_buffer(), 25)))


def test_the_buffer_holds_its_rows_in_one_tensor() -> None:
    buffer = new_buffer()
    batches(buffer, 1)
    place = buffer.state()["held.acts"].data_ptr()

    batches(buffer, 30)

    assert buffer.state()["held.acts"].data_ptr() == place
    assert buffer.state()["held.acts"].shape == (20, 2, 1)
