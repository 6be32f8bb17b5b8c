"""The held-out part of the activation cache, as rows and as token blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_train.activations.activation_cache import ActivationCache
from sae_train.activations.activation_scale import ActivationScale
from sae_train.corpus.token_blocks import TokenBlock
from steerd.host.hook_point import HookPoint

_BATCH_ROWS = 8192


@dataclass(frozen=True, slots=True)
class HeldOutRows:
    """A batch of activations that count, and which of their tokens are special."""

    resid: Tensor
    """[rows, d_model] float32."""
    token_ids: Tensor
    """[rows] int64."""
    special: Tensor
    """[rows] bool."""


def held_out_rows(
    cache: ActivationCache,
    hook_point: HookPoint,
    scale: ActivationScale,
    special_token_ids: frozenset[int],
    *,
    tokens: int | None = None,
) -> Iterator[HeldOutRows]:
    """Yield the kept rows of the first `tokens` that are no outliers, a few thousand at a time."""
    special = np.array(sorted(special_token_ids), dtype=np.int64)
    for shard in cache.shards("held_out", [hook_point], tokens):
        kept = np.flatnonzero(shard.keep)
        for start in range(0, len(kept), _BATCH_ROWS):
            rows = kept[start : start + _BATCH_ROWS]
            resid = shard.read(hook_point, rows)
            inlier = scale.is_inlier(resid)
            token_ids = torch.from_numpy(shard.token_ids[rows].astype(np.int64))
            is_special = torch.from_numpy(np.isin(shard.token_ids[rows], special))
            yield HeldOutRows(resid=resid[inlier], token_ids=token_ids[inlier], special=is_special[inlier])


def held_out_blocks(cache: ActivationCache, tokens: int, *, of: int | None = None) -> list[TokenBlock]:
    """Return blocks of at least `tokens` kept tokens, spread evenly over the first `of` of the split."""
    shards = list(cache.shards("held_out", [], of))
    share = min(1.0, tokens / max(1, sum(shard.kept_rows for shard in shards)))
    blocks: list[TokenBlock] = []
    owed = 0.0
    for shard in shards:
        for block in shard.token_blocks():
            owed += share * block.kept_tokens
            if owed > 0:
                blocks.append(block)
                owed -= block.kept_tokens
    return blocks
