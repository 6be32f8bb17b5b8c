"""Token blocks through the host: the activations of one hook point, block by block.

Blocks are sorted by length and padded into batches under a token budget; padding is masked, so a block's
activations are those it has alone. The host's forward stops right after the hook point.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sae_train.corpus.token_blocks import TokenBlock
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel


def host_activations(
    host: HostModel, hook_point: HookPoint, blocks: Sequence[TokenBlock], *, batch_tokens: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield (index into `blocks`, activations [tokens, d_model]) for every block, shortest blocks first."""
    for batch in length_batches(blocks, batch_tokens):
        input_ids, mask = pad_batch([blocks[index] for index in batch], device=host.device)
        resid = host.activations(input_ids, mask, [hook_point])[hook_point]  # [batch, seq, d_model]
        for row, index in enumerate(batch):
            yield index, resid[row, : len(blocks[index].ids)]


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
