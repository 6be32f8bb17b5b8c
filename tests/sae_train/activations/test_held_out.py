from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sae_train.activations.activation_scale import ActivationScale
from sae_train.activations.held_out import held_out_blocks, held_out_rows
from steerd.host.host_model import HostModel
from tests.sae_train.activations.small_data import (
    FIRST,
    LAST,
    alone,
    harvested,
    kept,
    kept_tokens,
    random_blocks,
)

BLOCKS = random_blocks(30)


def test_rows_are_the_kept_inliers_with_their_special_tokens_marked(
    tiny_host: HostModel, tmp_path: Path
) -> None:
    cache = harvested(tmp_path, tiny_host, BLOCKS, split="held_out")
    every = kept(alone(tiny_host, BLOCKS, LAST), BLOCKS)
    ids = kept(torch.tensor([i for block in BLOCKS for i in block.ids]), BLOCKS)
    limit = float(every.norm(dim=1).quantile(0.9)) + 1e-3
    scale = ActivationScale(median_norm=1, outlier_limit=limit, scale=1)

    found = list(held_out_rows(cache, LAST, scale, frozenset({3, 5, 200, 7})))

    inlier = every.norm(dim=1) <= limit
    resid = torch.cat([batch.resid for batch in found])
    assert resid.dtype == torch.float32
    torch.testing.assert_close(resid, every[inlier], rtol=1e-3, atol=1e-3)
    special = torch.isin(ids, torch.tensor([3, 5, 7, 200]))[inlier]
    assert torch.equal(torch.cat([batch.special for batch in found]), special)
    assert special.any()


@pytest.mark.parametrize("blocks", [1, 13])
def test_rows_end_where_the_tokens_that_were_asked_for_end(
    tiny_host: HostModel, tmp_path: Path, blocks: int
) -> None:
    cache = harvested(tmp_path, tiny_host, BLOCKS, split="held_out")
    scale = ActivationScale(median_norm=1, outlier_limit=1e9, scale=1)
    tokens = kept_tokens(BLOCKS[:blocks])

    found = held_out_rows(cache, FIRST, scale, frozenset(), tokens=tokens)

    assert sum(len(batch.resid) for batch in found) == tokens


def test_blocks_are_spread_over_the_part_that_was_asked_for(tiny_host: HostModel, tmp_path: Path) -> None:
    cache = harvested(tmp_path, tiny_host, BLOCKS, split="held_out")
    half = kept_tokens(BLOCKS[:15])

    some = held_out_blocks(cache, half // 3, of=half)

    places = [BLOCKS.index(block) for block in some]
    assert kept_tokens(some) >= half // 3
    assert places == sorted(places)
    assert 9 < max(places) < 15
    assert held_out_blocks(cache, 10**9) == BLOCKS
