from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from sae_train.activations.run_corpus import block_stream, cache_identity, open_cache
from sae_train.activations.shard import CacheError
from sae_train.config import DataConfig
from sae_train.corpus.counts import CorpusCounts
from sae_train.corpus.source import SourceConfig
from steerd.errors import ConfigError
from steerd.host.host_model import HostModel
from tests.tiny_hosts import make_tiny_host


def data_section(folder: Path, **values: Any) -> DataConfig:
    corpus = folder / "corpus.jsonl"
    chats = [
        {"messages": [{"role": "user", "content": f"number {i}"}, {"role": "assistant", "content": "x" * i}]}
        for i in range(60)
    ]
    corpus.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    section = DataConfig(
        sources=(SourceConfig(path=str(corpus), mode="fast"),),
        cache=str(folder / "cache"),
        tokens=1000,
        held_out_share=0.3,
        context=512,
    )
    return dataclasses.replace(section, **values)


def test_training_and_held_out_blocks_are_apart_and_come_in_one_order(
    tiny_host: HostModel, tmp_path: Path
) -> None:
    data = data_section(tmp_path)
    counts = CorpusCounts()

    training = block_stream(data, tiny_host.tokenizer, "train", seed=0, counts=counts)
    held_out = list(block_stream(data, tiny_host.tokenizer, "held_out", seed=0)())

    next(training())
    blocks = list(training())
    assert len(blocks) + len(held_out) == 60
    assert held_out
    assert not {tuple(block.ids) for block in blocks} & {tuple(block.ids) for block in held_out}
    assert counts.of("corpus").documents == len(blocks)
    assert list(training()) == blocks
    assert list(block_stream(data, tiny_host.tokenizer, "train", seed=1)()) != blocks


@pytest.mark.parametrize(
    "change",
    [
        {"context": 64},
        {"held_out_share": 0.2},
        {"document_tokens": 7},
        {"shuffle_window": 7},
        {"sources": (SourceConfig(path="corpus.jsonl", mode="block"),)},
        {"sources": (SourceConfig(path="corpus.jsonl", mode="fast", text_column="body"),)},
        {"sources": (SourceConfig(path="hf:owner/corpus", mode="fast"),)},
    ],
)
def test_what_changes_the_blocks_needs_another_cache(
    tiny_host: HostModel, tmp_path: Path, change: dict[str, Any]
) -> None:
    open_cache(data_section(tmp_path), tiny_host, seed=0)

    with pytest.raises(CacheError, match=rf"made for another run: {next(iter(change))} is"):
        open_cache(data_section(tmp_path, **change), tiny_host, seed=0)
    with pytest.raises(CacheError, match="seed is 0, this run has 1"):
        open_cache(data_section(tmp_path), tiny_host, seed=1)


def test_what_changes_no_block_keeps_the_cache(tiny_host: HostModel, tmp_path: Path) -> None:
    data = data_section(tmp_path)
    elsewhere = SourceConfig(path="/elsewhere/corpus.jsonl", mode="fast", licence="CC0-1.0")

    identity = cache_identity(data, tiny_host, seed=0)

    longer = dataclasses.replace(data, sources=(elsewhere,), tokens=10**6, cached_tokens=10, shard_tokens=9)
    assert cache_identity(longer, tiny_host, seed=0) == identity
    assert identity["host"]["dtype"] == "float32"
    assert json.loads(json.dumps(identity)) == identity


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
def test_a_context_that_the_host_cannot_read_is_refused_before_anything_is_written(
    tmp_path: Path, architecture: str
) -> None:
    host = make_tiny_host(architecture, max_position_embeddings=128)

    expected = rf"data\.context: must be at most 128, .* host 'tiny-{architecture}' has, found 129"
    with pytest.raises(ConfigError, match=expected):
        open_cache(data_section(tmp_path, context=129), host, seed=0)
    assert not (tmp_path / "cache").exists()

    open_cache(data_section(tmp_path, context=128), host, seed=0)
