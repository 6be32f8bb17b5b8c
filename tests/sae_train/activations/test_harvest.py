from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from sae_train.activations.activation_cache import ActivationCache
from sae_train.activations.activation_scale import ActivationError
from sae_train.activations.harvest import next_pool, shard_size
from sae_train.activations.shard import CacheError, aside_path, open_shard, resid_path
from sae_train.corpus.token_blocks import TokenBlock
from steerd.host.host_model import HostModel
from tests.sae_train.activations.small_data import (
    FIRST,
    HOOK_POINTS,
    LAST,
    SHARD_TOKENS,
    alone,
    files_of,
    harvested,
    kept_tokens,
    random_blocks,
)
from tests.tiny_hosts import make_tiny_host

BLOCKS = random_blocks(50)


def blocks_in(cache: ActivationCache) -> list[TokenBlock]:
    return [block for shard in cache.shards("train", HOOK_POINTS) for block in shard.token_blocks()]


def test_the_cache_holds_every_block_and_what_the_host_makes_of_it(
    tiny_host: HostModel, tmp_path: Path
) -> None:
    heard: list[int] = []

    cache = harvested(tmp_path, tiny_host, BLOCKS, on_tokens=heard.append)

    assert blocks_in(cache) == BLOCKS
    assert sum(heard) == cache.kept_tokens("train", HOOK_POINTS) == kept_tokens(BLOCKS)
    assert len(cache.shard_paths("train", HOOK_POINTS)) > 3
    for hook_point in HOOK_POINTS:
        rows = [
            torch.from_numpy(shard.resid(hook_point).copy()) for shard in cache.shards("train", [hook_point])
        ]
        expected = alone(tiny_host, BLOCKS, hook_point)
        torch.testing.assert_close(torch.cat(rows).float(), expected, rtol=2**-11 + 1e-4, atol=1e-4)


def test_a_shard_ends_with_the_block_that_reaches_its_tokens() -> None:
    stream = iter(BLOCKS)
    pools = []
    while pool := next_pool(stream, SHARD_TOKENS):
        pools.append(pool)

    assert [block for pool in pools for block in pool] == BLOCKS
    for pool in pools[:-1]:
        assert sum(len(block.ids) for block in pool[:-1]) < SHARD_TOKENS
        assert sum(len(block.ids) for block in pool) >= SHARD_TOKENS


def test_a_harvest_stops_with_the_shard_that_reaches_the_tokens_and_a_longer_one_goes_on(
    tiny_host: HostModel, tmp_path: Path
) -> None:
    whole = files_of(harvested(tmp_path / "whole", tiny_host, BLOCKS).folder)

    short = harvested(tmp_path / "grown", tiny_host, BLOCKS, tokens=200)
    assert 200 <= short.kept_tokens("train", HOOK_POINTS) < 200 + SHARD_TOKENS + 40

    heard: list[int] = []
    before = short.kept_tokens("train", HOOK_POINTS)
    grown = harvested(tmp_path / "grown", tiny_host, BLOCKS, on_tokens=heard.append)
    assert files_of(grown.folder) == whole
    assert sum(heard) == grown.kept_tokens("train", HOOK_POINTS) - before


@pytest.mark.parametrize("tokens", [200, 10**9])
def test_the_corpus_is_counted_once_and_as_far_as_it_is_used(
    tiny_host: HostModel, tmp_path: Path, tokens: int
) -> None:
    harvested(tmp_path, tiny_host, BLOCKS, tokens=900)
    shutil.rmtree(tmp_path / "train-00000")

    cache = harvested(tmp_path, tiny_host, BLOCKS, tokens=tokens)

    found = cache.corpus_counts("train", HOOK_POINTS, tokens)
    assert found is not None
    used = [
        block
        for path in cache.shard_paths("train", HOOK_POINTS, tokens)
        for block in open_shard(path).token_blocks()
    ]
    assert len(used) == len(BLOCKS) or kept_tokens(used) < 200 + SHARD_TOKENS
    assert {name: source["tokens"] for name, source in found["sources"].items()} == {
        name: kept_tokens([block for block in used if block.source == name]) for name in ("chat", "text")
    }


@pytest.mark.parametrize("tokens", [1, 1024, 5000, 60_000, 100_000, 3_000_000])
def test_little_is_harvested_beyond_what_was_asked_for(tokens: int) -> None:
    sizes: list[int] = []
    while sum(sizes) < tokens:
        sizes.append(shard_size(sum(sizes), 65_536))

    assert sum(sizes) - tokens < max(1024, tokens / 16)
    assert max(sizes) <= 65_536
    assert shard_size(2_000_000, 65_536) == 65_536
    assert shard_size(0, 150) == shard_size(10_000, 150) == 150


def test_small_and_growing_shards_are_cut_alike_by_every_harvest(
    tiny_host: HostModel, tmp_path: Path
) -> None:
    blocks = random_blocks(900)  # beyond sixteen shards of the smallest size
    whole = harvested(tmp_path / "whole", tiny_host, blocks, hook_points=(LAST,), shard_tokens=65_536)
    files = files_of(whole.folder)
    rows = [len(shard.token_ids) for shard in whole.shards("train", (LAST,))]
    assert len(rows) > 16
    assert rows[-2] > 1024 + 40

    grown = tmp_path / "grown"
    for tokens in (300, 3000, 10**9):
        harvested(grown, tiny_host, blocks, tokens=tokens, hook_points=(LAST,), shard_tokens=65_536)
    assert files_of(grown) == files

    for number in (2, len(rows) - 2):
        shutil.rmtree(whole.shard_path("train", number))
    harvested(whole.folder, tiny_host, blocks, hook_points=(LAST,), shard_tokens=65_536)
    assert files_of(whole.folder) == files


def test_a_cache_that_has_enough_needs_neither_corpus_nor_host(tiny_host: HostModel, tmp_path: Path) -> None:
    harvested(tmp_path, tiny_host, BLOCKS, tokens=400)
    heard: list[int] = []

    harvested(tmp_path, tiny_host, [], tokens=400, on_tokens=heard.append)

    assert heard == []


def test_missing_hook_points_come_from_the_stored_tokens(tiny_host: HostModel, tmp_path: Path) -> None:
    together = harvested(tmp_path / "together", tiny_host, BLOCKS)
    harvested(tmp_path / "apart", tiny_host, BLOCKS, hook_points=(FIRST,))
    resid_path(tmp_path / "apart" / "train-00001", FIRST).unlink()
    (tmp_path / "apart" / "train-00002" / f"{LAST}.partial").write_bytes(b"cut off")
    heard: list[int] = []

    apart = harvested(tmp_path / "apart", tiny_host, [], tokens=kept_tokens(BLOCKS), on_tokens=heard.append)

    assert files_of(apart.folder) == files_of(together.folder)
    assert sum(heard) == kept_tokens(BLOCKS)


def test_a_shard_that_was_lost_is_harvested_again(tiny_host: HostModel, tmp_path: Path) -> None:
    cache = harvested(tmp_path, tiny_host, BLOCKS)
    whole = files_of(cache.folder)
    shutil.rmtree(cache.shard_path("train", 1))
    aside_path(cache.shard_path("train", 1)).mkdir()
    (aside_path(cache.shard_path("train", 1)) / "keep.npy").write_bytes(b"cut off")

    harvested(tmp_path, tiny_host, BLOCKS)

    assert files_of(cache.folder) == whole


def test_a_corpus_that_changed_under_the_cache_is_refused(tiny_host: HostModel, tmp_path: Path) -> None:
    harvested(tmp_path, tiny_host, BLOCKS, tokens=300)
    changed = [*BLOCKS[:3], *random_blocks(40, seed=1)]

    with pytest.raises(CacheError, match=r"train-00000: holds other tokens than the corpus now gives"):
        harvested(tmp_path, tiny_host, changed)


def test_a_corpus_that_became_shorter_is_refused(tiny_host: HostModel, tmp_path: Path) -> None:
    harvested(tmp_path, tiny_host, BLOCKS, tokens=300)

    with pytest.raises(CacheError, match=r"holds other tokens"):
        harvested(tmp_path, tiny_host, BLOCKS[:5])


def test_activations_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    host = make_tiny_host()
    host.attach(FIRST, lambda resid: resid * float("nan"))

    with pytest.raises(ActivationError, match=r"not finite.*host\.dtype"):
        harvested(tmp_path, host, BLOCKS)

    assert not (tmp_path / "train-00000").exists()
