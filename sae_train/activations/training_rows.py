"""The activation cache as an endless stream of rows to train on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from torch import Tensor

from sae_train.activations.activation_cache import ActivationCache, CacheError, open_shard
from sae_train.activations.activation_scale import ActivationScale


@dataclass(slots=True)
class RowCounts:
    """How many rows a whole pass over the cache gave and left out."""

    kept: int = 0
    outliers: int = 0


def training_chunks(
    cache: ActivationCache, scale: ActivationScale, generator: torch.Generator, counts: RowCounts
) -> Iterator[Tensor]:
    """Yield the kept rows of shard after shard as float16, each pass in another order of shards; never ends.

    Outliers are left out; `counts` is filled afresh during the first pass.
    """
    paths = cache.shard_paths("train")
    if not paths:
        raise CacheError(f"{cache.folder}: holds no training shard")
    counts.kept = counts.outliers = 0
    for number in count():
        for index in torch.randperm(len(paths), generator=generator).tolist():
            shard = open_shard(paths[index])
            resid = torch.from_numpy(shard.resid[np.flatnonzero(shard.keep)])  # [rows, d_model] float16
            inlier = scale.is_inlier(resid.float())
            if number == 0:
                counts.kept += int(inlier.sum())
                counts.outliers += int((~inlier).sum())
            yield resid[inlier]


def sample_rows(cache: ActivationCache, rows: int, generator: torch.Generator) -> Tensor:
    """Return up to `rows` kept training rows from shards spread over the cache, [rows, d_model] float32."""
    paths = cache.shard_paths("train")
    if not paths:
        raise CacheError(f"{cache.folder}: holds no training shard")
    chosen = paths[:: max(1, len(paths) // 8)]
    share = -(-rows // len(chosen))
    samples = []
    for path in chosen:
        shard = open_shard(path)
        kept = np.flatnonzero(shard.keep)
        picked = torch.randperm(len(kept), generator=generator)[:share].numpy()
        samples.append(shard.read(np.sort(kept[picked])))
    return torch.cat(samples)[:rows]
