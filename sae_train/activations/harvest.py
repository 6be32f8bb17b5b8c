"""From the corpus to the activation cache: which blocks a run sees, each run through the host once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sae_train.activations.activation_cache import ActivationCache, Split, write_shard
from sae_train.activations.host_activations import host_activations
from sae_train.config import Config
from sae_train.corpus.corpus_stream import corpus_blocks as sources_blocks
from sae_train.corpus.counts import CorpusCounts
from sae_train.corpus.token_blocks import TokenBlock, take_tokens
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel


def open_cache(config: Config, host: HostModel) -> ActivationCache:
    """Return the run's activation cache, new or as an earlier run left it; CacheError for another run's."""
    return ActivationCache.open_or_create(Path(config.data.cache), cache_identity(config, host))


def cache_identity(config: Config, host: HostModel) -> dict[str, Any]:  # Any: JSON values
    """Say what decides a cache's contents, token counts aside (a longer harvest extends a shorter one)."""
    data = config.data
    return {
        "host": {"name": host.name, "content_hash": host.content_hash, "dtype": config.host.dtype},
        "hook_point": config.sae.hook_point,
        "seed": config.seed,
        "sources": [{"file": Path(s.path).name, "mode": s.mode, "share": s.share} for s in data.sources],
        "held_out_share": data.held_out_share,
        "context": data.context,
        "document_tokens": data.document_tokens,
        "shuffle_window": data.shuffle_window,
        "shard_blocks": data.shard_blocks,
    }


def harvest_split(
    cache: ActivationCache,
    split: Split,
    *,
    config: Config,
    host: HostModel,
    on_tokens: Callable[[int], None],
) -> None:
    """Run the split's blocks through the host into shards, skipping what whole shards already hold.

    `on_tokens` hears the number of kept tokens as they are done.
    """
    stream = islice(corpus_blocks(config, host.tokenizer, split), cache.blocks(split), None)
    number = len(cache.shard_paths(split))
    while pool := list(islice(stream, config.data.shard_blocks)):
        resid = _harvest_pool(pool, config=config, host=host, on_tokens=on_tokens)
        write_shard(cache.folder / f"{split}-{number:05d}", pool, resid)
        number += 1


def corpus_blocks(config: Config, tokenizer: PreTrainedTokenizerBase, split: Split) -> Iterator[TokenBlock]:
    """Yield the split's token blocks, always in the same order for the same configuration."""
    data = config.data
    blocks = sources_blocks(
        data.sources,
        tokenizer,
        held_out=split == "held_out",
        held_out_share=data.held_out_share,
        seed=config.seed,
        context=data.context,
        document_tokens=data.document_tokens,
        shuffle_window=data.shuffle_window,
        counts=CorpusCounts(),
    )
    return take_tokens(blocks, data.tokens if split == "train" else data.held_out_tokens)


def _harvest_pool(
    pool: list[TokenBlock], *, config: Config, host: HostModel, on_tokens: Callable[[int], None]
) -> Tensor:
    hook_point = HookPoint.parse(config.sae.hook_point)
    found: dict[int, Tensor] = {}
    for index, activations in host_activations(host, hook_point, pool, batch_tokens=config.data.batch_tokens):
        found[index] = activations.float().cpu()
        on_tokens(pool[index].kept_tokens)
    return torch.cat([found[index] for index in range(len(pool))])  # [rows, d_model]
