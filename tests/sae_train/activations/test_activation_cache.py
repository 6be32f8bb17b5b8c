from __future__ import annotations

import resource
import shutil
from pathlib import Path

import pytest
import torch

from sae_train.activations.activation_cache import ActivationCache
from sae_train.activations.shard import CacheError, add_resid, write_shard
from sae_train.corpus.token_blocks import TokenBlock
from tests.sae_train.activations.small_data import FIRST, LAST, empty_cache, kept_tokens, random_blocks

BLOCKS = random_blocks(12)
PARTS = [BLOCKS[:4], BLOCKS[4:8], BLOCKS[8:]]


def cache_of_parts(folder: Path) -> ActivationCache:
    cache = empty_cache(folder)
    for number, part in enumerate(PARTS):
        rows = sum(len(block.ids) for block in part)
        write_shard(cache.shard_path("train", number), part, {FIRST: torch.randn(rows, 4)})
    return cache


def blocks_of(cache: ActivationCache, tokens: int | None) -> list[TokenBlock]:
    return [block for shard in cache.shards("train", [FIRST], tokens) for block in shard.token_blocks()]


def test_leading_shards_are_those_that_have_all_hook_points(tmp_path: Path) -> None:
    cache = cache_of_parts(tmp_path)
    paths = [cache.shard_path("train", number) for number in range(3)]
    for path in (paths[0], paths[2]):
        add_resid(path, {LAST: torch.randn(rows_in(path), 4)})

    assert cache.shard_paths("train", []) == cache.shard_paths("train", [FIRST]) == paths
    assert cache.shard_paths("train", [FIRST, LAST]) == paths[:1]
    assert cache.kept_tokens("train", [LAST]) == kept_tokens(PARTS[0])
    assert cache.shard_paths("held_out", [FIRST]) == []


def rows_in(path: Path) -> int:
    return sum(len(block.ids) for block in PARTS[int(path.name[-5:])])


def test_shards_after_a_gap_do_not_count(tmp_path: Path) -> None:
    cache = cache_of_parts(tmp_path)
    shutil.rmtree(cache.shard_path("train", 1))

    assert cache.shard_paths("train", [FIRST]) == [cache.shard_path("train", 0)]


@pytest.mark.parametrize("blocks", [1, 4, 5, 11, 12])
def test_what_is_read_ends_with_the_block_that_reaches_the_tokens(tmp_path: Path, blocks: int) -> None:
    cache = cache_of_parts(tmp_path)
    tokens = kept_tokens(BLOCKS[:blocks])

    assert blocks_of(cache, tokens) == BLOCKS[:blocks]
    assert blocks_of(cache, tokens - BLOCKS[blocks - 1].kept_tokens + 1) == BLOCKS[:blocks]
    assert blocks_of(cache, None) == blocks_of(cache, 10**9) == BLOCKS
    assert blocks_of(cache, 0) == []


def test_a_cache_of_another_run_is_refused(tmp_path: Path) -> None:
    ActivationCache.open_or_create(tmp_path, {"context": 512, "seed": 0})

    ActivationCache.open_or_create(tmp_path, {"seed": 0, "context": 512})
    with pytest.raises(CacheError, match=r"context is 512, this run has 64"):
        ActivationCache.open_or_create(tmp_path, {"context": 64, "seed": 0})
    with pytest.raises(CacheError, match=r"seed is 0, this run has None"):
        ActivationCache.open_or_create(tmp_path, {"context": 512})


def test_many_open_shards_need_no_open_files(tmp_path: Path) -> None:
    cache = cache_of_parts(tmp_path)
    with (tmp_path / "cache.json").open() as file:
        next_number = file.fileno()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_number + 3, before[1]))
    try:
        shards = [shard for _ in range(8) for shard in cache.shards("train", [FIRST])]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    assert len(shards) == 24


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_cache_whose_identity_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "cache.json").write_text(content)

    with pytest.raises(CacheError, match=r"cache\.json"):
        ActivationCache.open_or_create(tmp_path, {})


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(CacheError, match=r"file/cache"):
        ActivationCache.open_or_create(tmp_path / "file" / "cache", {})


def test_a_shard_without_counts_is_named(tmp_path: Path) -> None:
    cache = cache_of_parts(tmp_path)
    (cache.shard_path("train", 1) / "shard.json").write_text("{}")

    with pytest.raises(CacheError, match=r"train-00001: damaged"):
        cache.kept_tokens("train", [FIRST])
