from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sae_train.activations.activation_cache import ActivationCache, CacheError, Split, open_shard
from sae_train.activations.harvest import corpus_blocks, harvest_split, open_cache
from sae_train.config import Config, parse_config
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel


def config_for(folder: Path, **data: int | float) -> Config:
    corpus = folder / "corpus.jsonl"
    if not corpus.exists():
        chats = [
            {
                "messages": [
                    {"role": "user", "content": f"number {i}"},
                    {"role": "assistant", "content": "x" * (i % 17)},
                ]
            }
            for i in range(60)
        ]
        corpus.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    values = {
        "tokens": 1500,
        "held_out_tokens": 200,
        "held_out_share": 0.3,
        "batch_tokens": 200,
        "shard_blocks": 8,
    }
    return parse_config(
        {
            "output": str(folder / "run"),
            "sae": {"hook_point": "blocks.1.hook_resid_post"},
            "data": {"sources": [{"path": str(corpus), "mode": "fast"}], "cache": str(folder / "cache")}
            | values
            | data,
            "training": {"tokens": 1000},
        }
    )


def harvest(config: Config, host: HostModel, split: Split = "train") -> tuple[ActivationCache, int]:
    cache = open_cache(config, host)
    seen: list[int] = []
    harvest_split(cache, split, config=config, host=host, on_tokens=seen.append)
    return cache, sum(seen)


def rows_of(cache: ActivationCache, split: Split = "train") -> Tensor:
    return torch.cat([torch.from_numpy(shard.resid.copy()) for shard in cache.shards(split)])


def test_cached_rows_are_what_the_host_gives_each_sequence_alone(
    tiny_host: HostModel, tmp_path: Path
) -> None:
    config = config_for(tmp_path)
    hook_point = HookPoint.parse(config.sae.hook_point)

    cache, tokens = harvest(config, tiny_host)

    blocks = list(corpus_blocks(config, tiny_host.tokenizer, "train"))
    alone = [
        tiny_host.activations(torch.tensor([block.ids]), None, [hook_point])[hook_point][0]
        for block in blocks
    ]
    torch.testing.assert_close(rows_of(cache).float(), torch.cat(alone), rtol=2e-3, atol=2e-3)
    assert tokens == cache.kept_tokens("train") == sum(block.kept_tokens for block in blocks)


def test_training_and_held_out_documents_are_apart(tiny_host: HostModel, tmp_path: Path) -> None:
    config = config_for(tmp_path, tokens=10**6, held_out_tokens=10**6)

    training = [tuple(block.ids) for block in corpus_blocks(config, tiny_host.tokenizer, "train")]
    held_out = [tuple(block.ids) for block in corpus_blocks(config, tiny_host.tokenizer, "held_out")]

    assert len(training) + len(held_out) == 60
    assert held_out
    assert not set(training) & set(held_out)


def test_a_harvest_that_was_killed_goes_on_and_ends_the_same(tiny_host: HostModel, tmp_path: Path) -> None:
    config = config_for(tmp_path)
    cache, _ = harvest(config, tiny_host)
    whole = rows_of(cache)
    for path in cache.shard_paths("train")[2:]:
        shutil.rmtree(path)
    (cache.folder / "train-00002.partial").mkdir()
    before = cache.kept_tokens("train")

    resumed, tokens = harvest(config, tiny_host)

    assert tokens == resumed.kept_tokens("train") - before > 0
    assert torch.equal(rows_of(resumed), whole)


def test_a_longer_harvest_extends_a_shorter_one(tiny_host: HostModel, tmp_path: Path) -> None:
    (tmp_path / "short").mkdir()
    long, _ = harvest(config_for(tmp_path), tiny_host)
    harvest(config_for(tmp_path / "short", tokens=400), tiny_host)

    extended, _ = harvest(config_for(tmp_path / "short"), tiny_host)

    torch.testing.assert_close(rows_of(extended).float(), rows_of(long).float(), rtol=2e-3, atol=2e-3)


def test_a_cache_of_another_run_is_refused(tiny_host: HostModel, tmp_path: Path) -> None:
    open_cache(config_for(tmp_path), tiny_host)

    with pytest.raises(CacheError, match=r"context is 512, this run has 64"):
        open_cache(config_for(tmp_path, context=64), tiny_host)


def test_a_damaged_shard_is_named(tiny_host: HostModel, tmp_path: Path) -> None:
    cache, _ = harvest(config_for(tmp_path), tiny_host)
    path = cache.shard_paths("train")[0]
    (path / "resid.npy").write_bytes((path / "resid.npy").read_bytes()[:-64])

    with pytest.raises(CacheError, match="train-00000"):
        open_shard(path)
