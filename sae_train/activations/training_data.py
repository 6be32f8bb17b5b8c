"""What a run trains on: the cached blocks of its corpus, then those that pass by live."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sae_train.activations.activation_cache import ActivationCache
from sae_train.activations.harvest import BlockStream, next_pool, skip_shard
from sae_train.activations.host_activations import host_part, part_places
from sae_train.activations.shard import CacheError, Shard
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


class KeptRows(NamedTuple):
    """The kept rows of some blocks, outliers among them."""

    acts: Tensor
    """[rows, hook_points, d_model] float16."""
    token_ids: Tensor
    """[rows]."""


class PoolPart(NamedTuple):
    """A pool of live blocks, and the activations of this rank's part of them."""

    blocks: list[TokenBlock]
    part: Tensor


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

    def cached_shards(self) -> list[Shard]:
        """Open the shards that are used, the last one cut where `tokens` are reached."""
        wanted = self.tokens if self.cached_tokens is None else min(self.tokens, self.cached_tokens)
        shards: list[Shard] = []
        kept = 0
        for shard in self.cache.shards("train", self.hook_points, self.tokens):
            if kept >= wanted:
                break
            shards.append(shard)
            kept += shard.kept_rows
        return shards

    def cached_rows(self, shard: Shard) -> KeptRows:
        """Read the kept rows of a shard."""
        kept = np.flatnonzero(shard.keep)
        acts = torch.stack(
            [torch.from_numpy(shard.resid(hook_point)[kept]) for hook_point in self.hook_points], dim=1
        )
        return KeptRows(acts, torch.from_numpy(shard.token_ids[kept]))

    def live_pools(self, shards: list[Shard], first: int) -> Iterator[PoolPart]:
        """Run the blocks after the cached ones through the host, from the pool of number `first` on."""
        owed = self.tokens - sum(shard.kept_rows for shard in shards)
        if self.live is None or self.is_cached or owed <= 0:
            return
        stream = self.live.blocks()
        for shard in shards:
            skip_shard(stream, shard)
        stream = take_tokens(stream, owed)
        for number in count():
            pool = next_pool(stream, self.live.shard_tokens)
            if not pool:
                return
            if number >= first:
                part = host_part(
                    self.live.host,
                    self.hook_points,
                    pool,
                    batch_tokens=self.live.batch_tokens,
                    ranks=self.ranks,
                )
                yield PoolPart(pool, part)

    def live_rows(self, pool: PoolPart) -> KeptRows:
        """Join the ranks' parts of a pool; every rank calls it for the same pool at the same time."""
        assert self.live is not None
        keep = torch.tensor([keep for block in pool.blocks for keep in block.keep])
        token_ids = torch.tensor([token_id for block in pool.blocks for token_id in block.ids])
        places = part_places(pool.blocks, self.live.batch_tokens, self.ranks.size)[keep]
        joined = torch.cat(self.ranks.gather(pool.part))
        return KeptRows(joined.index_select(0, places.to(joined.device)), token_ids[keep])


def sample_rows(data: TrainingData, rows: int, generator: torch.Generator) -> Tensor:
    """Return about `rows` kept rows, [rows, hook_points, d_model] float16, outliers among them.

    They come from shards spread over the cached part; when nothing is cached, from the first live pools.
    """
    shards = data.cached_shards()
    chosen = shards[:: max(1, len(shards) // 8)]
    share = -(-rows // max(1, len(chosen)))
    samples = [_picked(data.cached_rows(shard), share, generator) for shard in chosen]
    if not shards:
        owed = rows
        for pool in data.live_pools([], 0):
            samples.append(_picked(data.live_rows(pool), owed, generator))
            owed -= len(samples[-1])
            if owed <= 0:
                break
    if not samples:
        raise CacheError(f"{data.cache.folder}: holds no training shard")
    return torch.cat(samples)[:rows]


def _picked(rows: KeptRows, limit: int, generator: torch.Generator) -> Tensor:
    picked = torch.randperm(len(rows.acts), generator=generator)[:limit].sort().values
    return rows.acts.index_select(0, picked.to(rows.acts.device))
