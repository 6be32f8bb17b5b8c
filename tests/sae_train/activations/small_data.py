"""Random token blocks and caches of them on the tiny host, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from sae_train.activations.activation_cache import ActivationCache, Split
from sae_train.activations.harvest import harvest
from sae_train.corpus.counts import CorpusCounts
from sae_train.corpus.token_blocks import TokenBlock
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from tests.tiny_hosts import VOCAB_SIZE

FIRST, LAST = HookPoint(0, "resid_post"), HookPoint(2, "resid_pre")
HOOK_POINTS = (FIRST, LAST)
BATCH_TOKENS = 120
SHARD_TOKENS = 150


def random_blocks(count: int, *, seed: int = 0, longest: int = 40) -> list[TokenBlock]:
    """Blocks of 2 to `longest` random tokens from two sources; the first token of each is not kept."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, longest + 1, (count,), generator=generator).tolist()
    return [
        TokenBlock(
            ids=torch.randint(0, VOCAB_SIZE, (length,), generator=generator).tolist(),
            keep=[False] + [True] * (length - 1),
            source=("chat", "text")[index % 2],
        )
        for index, length in enumerate(lengths)
    ]


def kept_tokens(blocks: list[TokenBlock]) -> int:
    """How many tokens of the blocks count."""
    return sum(block.kept_tokens for block in blocks)


def empty_cache(folder: Path) -> ActivationCache:
    """A cache without shards."""
    return ActivationCache.open_or_create(folder, {"made": "for a test"})


def counted(blocks: list[TokenBlock], counts: CorpusCounts) -> Iterator[TokenBlock]:
    """The blocks; the counts are of those taken so far."""
    counts.clear()
    for block in blocks:
        counts.of(block.source).tokens += block.kept_tokens
        yield block


def harvested(
    folder: Path,
    host: HostModel,
    blocks: list[TokenBlock],
    *,
    tokens: int = 10**9,
    hook_points: tuple[HookPoint, ...] = HOOK_POINTS,
    split: Split = "train",
    shard_tokens: int = SHARD_TOKENS,
    on_tokens: Callable[[int], object] = lambda _tokens: None,
) -> ActivationCache:
    """The cache of the blocks, gone on with if it is there."""
    cache, counts = empty_cache(folder), CorpusCounts()
    harvest(
        cache,
        split,
        hook_points,
        host=host,
        blocks=lambda: counted(blocks, counts),
        counts=counts,
        tokens=tokens,
        batch_tokens=BATCH_TOKENS,
        shard_tokens=shard_tokens,
        on_tokens=on_tokens,
    )
    return cache


def alone(host: HostModel, blocks: list[TokenBlock], hook_point: HookPoint) -> Tensor:
    """What the host gives each block by itself, without padding: [rows, d_model]."""
    return torch.cat(
        [
            host.activations(torch.tensor([block.ids]), None, [hook_point])[hook_point][0].float()
            for block in blocks
        ]
    )


def kept(rows: Tensor, blocks: list[TokenBlock]) -> Tensor:
    """The rows whose tokens count."""
    return rows[torch.tensor([keep for block in blocks for keep in block.keep])]


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, by its path there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
