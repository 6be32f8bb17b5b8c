"""What a run's data section says: which blocks there are, and whose activations a cache holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from sae_train.activations.activation_cache import ActivationCache, Split
from sae_train.activations.harvest import BlockStream
from sae_train.config import DataConfig
from sae_train.corpus.corpus_stream import corpus_blocks
from sae_train.corpus.counts import CorpusCounts
from sae_train.corpus.source import SourceConfig
from sae_train.corpus.token_blocks import TokenBlock
from steerd.errors import ConfigError
from steerd.host.host_model import HostModel


def block_stream(
    data: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    split: Split,
    *,
    seed: int,
    counts: CorpusCounts | None = None,
) -> BlockStream:
    """Return what starts all of the split's blocks, in the same order each time.

    `counts` is of the blocks taken since the stream was started last.
    """

    counted = CorpusCounts() if counts is None else counts

    def start() -> Iterator[TokenBlock]:
        counted.clear()
        return corpus_blocks(
            data.sources,
            tokenizer,
            held_out=split == "held_out",
            held_out_share=data.held_out_share,
            seed=seed,
            context=data.context,
            document_tokens=data.document_tokens,
            shuffle_window=data.shuffle_window,
            counts=counted,
        )

    return start


def open_cache(data: DataConfig, host: HostModel, *, seed: int) -> ActivationCache:
    """Return the run's activation cache, new or as an earlier run left it; CacheError for another run's.

    Raises ConfigError when the host cannot read sequences as long as the data's.
    """
    if data.context > host.max_context:
        raise ConfigError(
            f"data.context: must be at most {host.max_context}, the positions that host {host.name!r} has, "
            f"found {data.context}"
        )
    return ActivationCache.open_or_create(Path(data.cache), cache_identity(data, host, seed=seed))


def cache_identity(data: DataConfig, host: HostModel, *, seed: int) -> dict[str, Any]:  # Any: JSON values
    """Say what decides a cache's rows; hook points and token counts may differ, they add to it."""
    dtype = str(host.dtype).removeprefix("torch.")
    return {
        "host": {"name": host.name, "content_hash": host.content_hash, "dtype": dtype},
        "seed": seed,
        "sources": [_source_identity(source) for source in data.sources],
        "held_out_share": data.held_out_share,
        "context": data.context,
        "document_tokens": data.document_tokens,
        "shuffle_window": data.shuffle_window,
    }


def _source_identity(source: SourceConfig) -> dict[str, Any]:  # Any: JSON values
    values = dataclasses.asdict(source)
    # Neither changes a block; a file may lie elsewhere on another machine.
    del values["licence"], values["on_bad_line"]
    values["path"] = source.path if source.is_on_hub else Path(source.path).name
    return values
