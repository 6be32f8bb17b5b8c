"""What a run trains on: the cached blocks of its corpus, then those that pass by live."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sae_train.activations.activation_cache import ActivationCache, kept_rows
from sae_train.activations.harvest import BlockStream, next_pool, skip_shard
from sae_train.activations.host_activations import host_part, part_places
from sae_train.activations.shard import CacheError, Shard, open_shard
from sae_train.corpus.token_blocks import TokenBlock, take_tokens
from sae_train.ranks import ALONE, Ranks
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveBlocks:
    """The host, and the blocks that it is fed, a pool at a time."""

    host: HostModel
    blocks: BlockStream
    """All of the run's training blocks, the cached ones first."""
    batch_tokens: int
    shard_tokens: int
    """Tokens of a pool, as of a shard."""


class CachedPart(NamedTuple):
    """A shard, and how many of its kept tokens are the run's."""

    path: Path
    tokens: int

    def open(self) -> Shard:
        """Read the shard up to the block that reaches those tokens; CacheError when it is damaged."""
        return open_shard(self.path).first_tokens(self.tokens)


class KeptRows(NamedTuple):
    """The kept rows of some blocks, outliers among them."""

    acts: Tensor
    """[rows, hook_points, d_model] float16."""
    token_ids: Tensor
    """[rows]."""


class PoolPart(NamedTuple):
    """A pool of live blocks, and the activations of this rank's part of them."""

    blocks: list[TokenBlock]
    rows: Tensor
    """As `host_part` gives them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """The first blocks of a corpus that hold `tokens` kept tokens, as rows of every hook point.

    The first `cached_tokens` of them (all when None) come from the cache's whole shards, the others through
    `live`, and are never stored. Every rank gets all rows; they share the host's work.
    """

    cache: ActivationCache
    hook_points: tuple[HookPoint, ...]
    tokens: int
    cached_tokens: int | None = None
    live: LiveBlocks | None = None
    ranks: Ranks = ALONE

    @property
    def is_cached(self) -> bool:
        """Whether no block passes by live."""
        return self.cached_tokens is None or self.cached_tokens >= self.tokens

    def cached_parts(self) -> list[CachedPart]:
        """Return the shards that are used, the last one up to where `tokens` are reached."""
        wanted = self.tokens if self.is_cached else self.cached_tokens or 0
        parts: list[CachedPart] = []
        kept = 0
        for path in self.cache.shard_paths("train", self.hook_points):
            if kept >= wanted:
                break
            parts.append(CachedPart(path, tokens=min(kept_rows(path), self.tokens - kept)))
            kept += parts[-1].tokens
        return parts

    def cached_rows(self, shard: Shard) -> KeptRows:
        """Read the kept rows of a shard."""
        kept = np.flatnonzero(shard.keep)
        acts = torch.stack(
            [torch.from_numpy(shard.resid(hook_point)[kept]) for hook_point in self.hook_points], dim=1
        )
        return KeptRows(acts, torch.from_numpy(shard.token_ids[kept]))

    def live_pools(self, cached: list[CachedPart], first: int) -> Iterator[PoolPart]:
        """Run the blocks after the cached ones through the host, from the pool of number `first` on."""
        owed = self.tokens - sum(part.tokens for part in cached)
        if self.live is None or self.is_cached or owed <= 0:
            return
        stream = self.live.blocks()
        for part in cached:
            skip_shard(stream, part.open())
        stream = take_tokens(stream, owed)
        for number in count():
            pool = next_pool(stream, self.live.shard_tokens)
            if not pool:
                return
            if number >= first:
                rows = host_part(
                    self.live.host,
                    self.hook_points,
                    pool,
                    batch_tokens=self.live.batch_tokens,
                    ranks=self.ranks,
                )
                yield PoolPart(pool, rows)

    def live_rows(self, pool: PoolPart) -> KeptRows:
        """Join the ranks' parts of a pool; every rank calls it for the same pool at the same time."""
        assert self.live is not None
        keep = torch.tensor([keep for block in pool.blocks for keep in block.keep])
        token_ids = torch.tensor([token_id for block in pool.blocks for token_id in block.ids])
        places = part_places(pool.blocks, self.live.batch_tokens, self.ranks.size)[keep]
        joined = torch.cat(self.ranks.gather(pool.rows))
        return KeptRows(joined.index_select(0, places.to(joined.device)), token_ids[keep])


def sample_rows(data: TrainingData, rows: int, generator: torch.Generator) -> Tensor:
    """Return about `rows` kept rows, [rows, hook_points, d_model] float16, outliers among them.

    They come from eight cached shards, or more where those are small; when nothing is cached, from the first
    live pools.
    """
    cached = data.cached_parts()
    parts = _drawn_shards(data, cached, generator) if cached else map(data.live_rows, data.live_pools([], 0))
    most = -(-rows // min(8, len(cached))) if cached else rows
    samples: list[Tensor] = []
    owed = rows
    for part in parts:
        samples.append(_picked(part, min(owed, most), generator))
        owed -= len(samples[-1])
        if owed <= 0:
            break
    if not samples:
        raise CacheError(f"{data.cache.folder}: holds no training shard")
    return torch.cat(samples)


def _drawn_shards(
    data: TrainingData, cached: list[CachedPart], generator: torch.Generator
) -> Iterator[KeptRows]:
    """The rows of shard after shard, each likely to come early by its tokens: the first shards are small."""
    tokens = torch.tensor([float(part.tokens) for part in cached])
    for index in torch.multinomial(tokens, len(cached), generator=generator).tolist():
        yield data.cached_rows(cached[index].open())


def _picked(rows: KeptRows, limit: int, generator: torch.Generator) -> Tensor:
    picked = torch.randperm(len(rows.acts), generator=generator)[:limit].sort().values
    return rows.acts.index_select(0, picked.to(rows.acts.device))
