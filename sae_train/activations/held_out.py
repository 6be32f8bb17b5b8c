"""The held-out part of the activation cache, as rows and as token blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from sae_train.activations.activation_cache import ActivationCache
from sae_train.activations.activation_scale import ActivationScale
from sae_train.corpus.token_blocks import TokenBlock
from sae_train.evaluation.reconstruction import HeldOutRows

_BATCH_ROWS = 8192


def held_out_rows(
    cache: ActivationCache, scale: ActivationScale, special_token_ids: frozenset[int]
) -> Iterator[HeldOutRows]:
    """Yield the kept rows that are no outliers, a few thousand at a time."""
    special = np.array(sorted(special_token_ids), dtype=np.int64)
    for shard in cache.shards("held_out"):
        kept = np.flatnonzero(shard.keep)
        for start in range(0, len(kept), _BATCH_ROWS):
            rows = kept[start : start + _BATCH_ROWS]
            resid = shard.read(rows)
            inlier = scale.is_inlier(resid)
            is_special = torch.from_numpy(np.isin(shard.token_ids[rows], special))
            yield HeldOutRows(resid=resid[inlier], special=is_special[inlier])


def held_out_blocks(cache: ActivationCache, tokens: int) -> list[TokenBlock]:
    """Return held-out blocks of at least `tokens` kept tokens in all, spread evenly over the split."""
    total = max(1, cache.kept_tokens("held_out"))
    share = min(1.0, tokens / total)
    blocks: list[TokenBlock] = []
    owed = 0.0
    for shard in cache.shards("held_out"):
        for index, source in enumerate(shard.sources):
            part = slice(int(shard.starts[index]), int(shard.starts[index + 1]))
            block = TokenBlock(shard.token_ids[part].tolist(), shard.keep[part].tolist(), source)
            owed += share * block.kept_tokens
            if owed > 0:
                blocks.append(block)
                owed -= block.kept_tokens
    return blocks
