"""Token blocks through the host: the activations of the hook points, rows in the blocks' order.

Blocks are sorted by length and padded into batches under a token budget; padding is masked, so a block's
activations are those it has alone. The host's forward stops right after the last hook point. Several ranks
share the batches; the rows are the same as one rank's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_train.activations.row_chunk import to_float16
from sae_train.corpus.token_blocks import TokenBlock
from sae_train.ranks import ALONE, Ranks
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel


def host_rows(
    host: HostModel,
    hook_points: Sequence[HookPoint],
    blocks: Sequence[TokenBlock],
    *,
    batch_tokens: int,
    on_tokens: Callable[[int], object] = lambda _tokens: None,
) -> Tensor:
    """Return the rows of all blocks in order, [rows, hook_points, d_model] float16 where the host is.

    `on_tokens` hears the number of kept tokens as they are done.
    """
    part = host_part(host, hook_points, blocks, batch_tokens=batch_tokens, on_tokens=on_tokens)
    return part.index_select(0, part_places(blocks, batch_tokens).to(part.device))


def host_part(
    host: HostModel,
    hook_points: Sequence[HookPoint],
    blocks: Sequence[TokenBlock],
    *,
    batch_tokens: int,
    ranks: Ranks = ALONE,
    on_tokens: Callable[[int], object] = lambda _tokens: None,
) -> Tensor:
    """Return this rank's rows, batch after batch, shortest blocks first; shaped as `host_rows`'."""
    batches = list(_rank_batches(blocks, batch_tokens, ranks.rank, ranks.size))
    rows = sum(len(blocks[index].ids) for batch in batches for index in batch)
    part = torch.empty(rows, len(hook_points), host.d_model, dtype=torch.float16, device=host.device)
    done = 0
    for batch in batches:
        chosen = [blocks[index] for index in batch]
        input_ids, mask = pad_batch(chosen, device=host.device)
        found = host.activations(input_ids, mask, hook_points)
        places = torch.from_numpy(_unpadded_places(chosen)).to(host.device)
        for index, hook_point in enumerate(hook_points):
            resid = found[hook_point].flatten(0, 1).index_select(0, places)  # [tokens, d_model]
            part[done : done + len(places), index] = to_float16(resid)
        done += len(places)
        on_tokens(sum(block.kept_tokens for block in chosen))
    return part


def part_places(blocks: Sequence[TokenBlock], batch_tokens: int, num_ranks: int = 1) -> Tensor:
    """Return where each row of the blocks, in order, lies in the ranks' parts joined, [rows]."""
    order = [
        index
        for rank in range(num_ranks)
        for batch in _rank_batches(blocks, batch_tokens, rank, num_ranks)
        for index in batch
    ]
    lengths = np.array([len(block.ids) for block in blocks])
    starts = np.zeros(len(blocks), dtype=np.int64)
    starts[order] = np.cumsum(lengths[order]) - lengths[order]
    first_rows = np.cumsum(lengths) - lengths
    return torch.from_numpy(np.arange(lengths.sum()) + np.repeat(starts - first_rows, lengths))


def length_batches(blocks: Sequence[TokenBlock], batch_tokens: int) -> Iterator[list[int]]:
    """Yield indices of blocks of similar length whose padded size stays within `batch_tokens`."""
    batch: list[int] = []
    for index in sorted(range(len(blocks)), key=lambda index: len(blocks[index].ids)):
        if batch and (len(batch) + 1) * len(blocks[index].ids) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def pad_batch(blocks: Sequence[TokenBlock], *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and mask, both [batch, longest]; the padding is on the right and hidden by the mask."""
    longest = max(len(block.ids) for block in blocks)
    input_ids = torch.zeros(len(blocks), longest, dtype=torch.long)
    mask = torch.zeros(len(blocks), longest, dtype=torch.long)
    for row, block in enumerate(blocks):
        input_ids[row, : len(block.ids)] = torch.tensor(block.ids)
        mask[row, : len(block.ids)] = 1
    return input_ids.to(device), mask.to(device)


def _rank_batches(
    blocks: Sequence[TokenBlock], batch_tokens: int, rank: int, num_ranks: int
) -> Iterator[list[int]]:
    return islice(length_batches(blocks, batch_tokens), rank, None, num_ranks)


def _unpadded_places(blocks: Sequence[TokenBlock]) -> NDArray[np.int64]:
    """Where the blocks' tokens lie in their padded batch as rows."""
    longest = max(len(block.ids) for block in blocks)
    return np.concatenate([row * longest + np.arange(len(block.ids)) for row, block in enumerate(blocks)])
