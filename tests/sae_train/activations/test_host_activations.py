from __future__ import annotations

import pytest
import torch

from sae_train.activations.host_activations import host_part, host_rows, length_batches, part_places
from sae_train.activations.row_chunk import to_float16
from sae_train.ranks import Ranks
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from tests.sae_train.activations.small_data import (
    BATCH_TOKENS,
    FIRST,
    HOOK_POINTS,
    LAST,
    alone,
    random_blocks,
)
from tests.tiny_hosts import make_tiny_host

BLOCKS = random_blocks(60)


def test_rows_are_what_the_host_gives_each_block_alone(tiny_host: HostModel) -> None:
    heard: list[int] = []

    rows = host_rows(tiny_host, HOOK_POINTS, BLOCKS, batch_tokens=BATCH_TOKENS, on_tokens=heard.append)

    assert rows.dtype == torch.float16
    assert sum(heard) == sum(block.kept_tokens for block in BLOCKS)
    assert len(heard) > 1
    for index, hook_point in enumerate(HOOK_POINTS):
        # Half a unit in float16's last place, and what padding to another length does to float32 sums.
        torch.testing.assert_close(
            rows[:, index].float(), alone(tiny_host, BLOCKS, hook_point), rtol=2**-11 + 1e-4, atol=1e-4
        )


def test_hook_points_harvested_together_or_one_by_one_are_the_same(tiny_host: HostModel) -> None:
    together = host_rows(tiny_host, HOOK_POINTS, BLOCKS, batch_tokens=BATCH_TOKENS)
    apart = [host_rows(tiny_host, [point], BLOCKS, batch_tokens=BATCH_TOKENS) for point in HOOK_POINTS]

    assert torch.equal(together, torch.cat(apart, dim=1))


@pytest.mark.parametrize("num_ranks", [2, 3, 40])
def test_the_parts_of_several_ranks_are_the_rows_of_one(tiny_host: HostModel, num_ranks: int) -> None:
    whole = host_rows(tiny_host, HOOK_POINTS, BLOCKS, batch_tokens=BATCH_TOKENS)

    parts = [
        host_part(
            tiny_host,
            HOOK_POINTS,
            BLOCKS,
            batch_tokens=BATCH_TOKENS,
            ranks=Ranks(rank=rank, size=num_ranks),
        )
        for rank in range(num_ranks)
    ]

    assert torch.equal(torch.cat(parts)[part_places(BLOCKS, BATCH_TOKENS, num_ranks)], whole)
    assert max(map(len, parts)) < len(whole)


def test_batches_hold_every_block_once_within_the_budget() -> None:
    batches = list(length_batches(BLOCKS, BATCH_TOKENS))

    assert sorted(index for batch in batches for index in batch) == list(range(len(BLOCKS)))
    for batch in batches:
        assert len(batch) * max(len(BLOCKS[index].ids) for index in batch) <= BATCH_TOKENS


def test_a_bfloat16_host_gives_finite_float16_rows() -> None:
    host = make_tiny_host("llama", dtype=torch.bfloat16)
    host.attach(HookPoint(0, "resid_post"), lambda resid: resid * 1e6)

    rows = host_rows(host, [FIRST, LAST], BLOCKS[:8], batch_tokens=BATCH_TOKENS)

    assert rows.dtype == torch.float16
    assert rows.isfinite().all()
    assert rows.abs().max() == 65504


def test_float16_rounds_inside_its_range_and_stops_at_its_end() -> None:
    values = torch.tensor([1.0, 1.0001, 65504.0, 65519.9, 70000.0, -1e30, float("inf")])

    expected = torch.tensor([1.0, 1.0, 65504.0, 65504.0, 65504.0, -65504.0, 65504.0], dtype=torch.float16)
    assert torch.equal(to_float16(values), expected)
    assert to_float16(values.bfloat16()).isfinite().all()
    assert to_float16(torch.tensor([float("nan")])).isnan().all()


@pytest.mark.real_host
def test_the_default_hosts_rows_are_what_it_gives_each_block_alone(real_host: HostModel) -> None:
    blocks = random_blocks(6, longest=30)
    hook_points = [HookPoint(3, "resid_post"), HookPoint(9, "resid_post")]

    rows = host_rows(real_host, hook_points, blocks, batch_tokens=90)

    for index, hook_point in enumerate(hook_points):
        expected = alone(real_host, blocks, hook_point)
        difference = (rows[:, index].float() - expected).norm(dim=1) / expected.norm(dim=1)
        assert difference.max() < 1e-3
