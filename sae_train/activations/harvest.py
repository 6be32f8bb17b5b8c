"""The corpus through the host into the activation cache, each block once.

Several processes may harvest one cache at the same time: each shard is claimed by one of them, and all return
when every shard is there. A process that dies leaves whole shards only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sae_train.activations.activation_cache import ActivationCache, Split, all_rows, kept_rows
from sae_train.activations.activation_scale import ActivationError
from sae_train.activations.claims import claimed
from sae_train.activations.host_activations import host_rows
from sae_train.activations.shard import (
    CacheError,
    Shard,
    add_resid,
    aside_path,
    open_shard,
    resid_path,
    write_shard,
)
from sae_train.corpus.counts import CorpusCounts
from sae_train.corpus.token_blocks import TokenBlock
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel

BlockStream = Callable[[], Iterator[TokenBlock]]
"""Starts the same blocks in the same order each time it is called."""

_SMALLEST_SHARD = 1024


def harvest(
    cache: ActivationCache,
    split: Split,
    hook_points: Sequence[HookPoint],
    *,
    host: HostModel,
    blocks: BlockStream,
    counts: CorpusCounts,
    tokens: int,
    batch_tokens: int,
    shard_tokens: int,
    on_tokens: Callable[[int], object],
) -> None:
    """Bring the split's leading shards to at least `tokens` kept tokens, with every hook point.

    What a shard lacks is harvested from its own token ids; then come new shards, each with the blocks that
    reach its `shard_size`, whatever `tokens` are: harvests of one cache, shorter and longer ones, cut the
    stream at the same places. `counts` is what `blocks` fills when it is read, from the beginning each time,
    and is kept with each shard. `on_tokens` hears the number of kept tokens as they are done, by this process
    or another. Ends early when the stream does. Raises CacheError, ActivationError.
    """
    run = _Harvest(cache, split, hook_points, host, counts, batch_tokens, shard_tokens, on_tokens)
    run.count_what_is_there()
    run.walk(blocks, tokens, wait=False)
    run.walk(blocks, tokens, wait=True)


def shard_size(tokens_before: int, shard_tokens: int) -> int:
    """Return the tokens of the shard that begins so far into the stream, at most `shard_tokens`.

    Small at first, then a sixteenth of what is before it: little is harvested beyond what was asked for.
    """
    return min(shard_tokens, max(_SMALLEST_SHARD, tokens_before // 16))


def next_pool(blocks: Iterator[TokenBlock], shard_tokens: int) -> list[TokenBlock]:
    """Take the next blocks up to the one that reaches `shard_tokens` tokens; none at the stream's end."""
    pool: list[TokenBlock] = []
    rows = 0
    while rows < shard_tokens and (block := next(blocks, None)) is not None:
        pool.append(block)
        rows += len(block.ids)
    return pool


@dataclass(slots=True)
class _Harvest:
    cache: ActivationCache
    split: Split
    hook_points: Sequence[HookPoint]
    host: HostModel
    counts: CorpusCounts
    batch_tokens: int
    shard_tokens: int
    on_tokens: Callable[[int], object]
    counted: set[Path] = field(default_factory=set)

    def count_what_is_there(self) -> None:
        self.counted.update(self.cache.shard_paths(self.split, self.hook_points))

    def walk(self, blocks: BlockStream, tokens: int, *, wait: bool) -> None:
        """Go through the shards in order and make what is missing; `wait` for those that others make."""
        place = _PlaceInStream(blocks)
        kept = passed = number = 0
        while kept < tokens:
            path = self.cache.shard_path(self.split, number)
            number += 1
            if not path.exists():
                pool = place.next_pool(shard_size(passed, self.shard_tokens))
                if not pool:
                    return
                self.complete(path, pool, wait=wait)
                kept += sum(block.kept_tokens for block in pool)
                passed += sum(len(block.ids) for block in pool)
            else:
                self.complete(path, [], wait=wait)
                place.pass_by(path)
                kept += kept_rows(path)
                passed += all_rows(path)

    def complete(self, path: Path, pool: list[TokenBlock], *, wait: bool) -> None:
        """Make a shard, or what it lacks; leave it, unless told to wait, when another process is at it."""
        while not path.exists() or self.lacking(path):
            is_new = not path.exists()
            with claimed(aside_path(path) if is_new else path, wait=wait) as is_ours:
                if is_ours and is_new and path.exists():
                    aside_path(path).rmdir()  # it came into place while we made the folder to lock
                elif is_ours and is_new:
                    write_shard(path, pool, self.resid(pool, self.hook_points), corpus=self.counts)
                    self.counted.add(path)
                elif is_ours:
                    self.fill(path)
                elif not wait:
                    return
        if path not in self.counted:
            self.counted.add(path)
            self.on_tokens(kept_rows(path))

    def fill(self, path: Path) -> None:
        for leftover in path.glob("*.partial"):
            leftover.unlink()
        if lacking := self.lacking(path):
            add_resid(path, self.resid(open_shard(path).token_blocks(), lacking))
            self.counted.add(path)

    def lacking(self, path: Path) -> list[HookPoint]:
        return [point for point in self.hook_points if not resid_path(path, point).exists()]

    def resid(self, pool: list[TokenBlock], hook_points: Sequence[HookPoint]) -> dict[HookPoint, Tensor]:
        rows = host_rows(
            self.host, hook_points, pool, batch_tokens=self.batch_tokens, on_tokens=self.on_tokens
        )
        if bool(torch.isnan(rows).any()):
            raise ActivationError("the host's activations are not finite; harvest with a wider host.dtype")
        return {hook_point: rows[:, index] for index, hook_point in enumerate(hook_points)}


class _PlaceInStream:
    """A place in the blocks that passes by whole shards; the stream is read when a pool is asked for."""

    def __init__(self, blocks: BlockStream) -> None:
        self._start = blocks
        self._blocks: Iterator[TokenBlock] | None = None
        self._passed: list[Path] = []

    def pass_by(self, path: Path) -> None:
        self._passed.append(path)

    def next_pool(self, shard_tokens: int) -> list[TokenBlock]:
        if self._blocks is None:
            self._blocks = self._start()
        for path in self._passed:
            skip_shard(self._blocks, open_shard(path))
        self._passed.clear()
        return next_pool(self._blocks, shard_tokens)


def skip_shard(blocks: Iterator[TokenBlock], shard: Shard) -> None:
    """Take a shard's blocks off the stream; CacheError when the stream has other ones."""
    for cached in shard.token_blocks():
        block = next(blocks, None)
        if block is None or block.ids != cached.ids:
            raise CacheError(
                f"{shard.folder}: holds other tokens than the corpus now gives: the files changed since; "
                f"choose another data.cache or delete this one"
            )
