"""The dense encoder, in blocks of rows: all pre-activations are looked at, few are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from sae_train.architectures.trainable_sae import TrainableSae

# On a CPU a block is small enough to stay in the cache until the choice from it is made, and to need no fresh
# memory, which costs as much as a fifth of the product; with fewer rows the product itself gets slower.
_BLOCK_NUMBERS = 2**21
_FEWEST_ROWS = 256


def product_dtype(tensor: Tensor) -> torch.dtype:
    """Return in which dtype large products of such tensors run: under autocast in its own."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


@torch.no_grad()
def pre_act_blocks(sae: TrainableSae, centred: Tensor, *, num_rows: int | None = None) -> Iterator[Tensor]:
    """Yield centred @ W_enc + b_enc for x - b_dec [rows, d_model], in blocks [num_rows, d_sae] in order.

    A block is overwritten by the next. `num_rows` is chosen for speed where it is not given.
    """
    dtype = product_dtype(centred)
    W_enc, b_enc = sae.W_enc.to(dtype), sae.b_enc.to(dtype)
    num_rows = num_rows or _block_rows(centred, sae.d_sae)
    block = torch.empty(num_rows, sae.d_sae, dtype=dtype, device=centred.device)
    for rows in torch.split(centred.to(dtype), num_rows):
        yield torch.addmm(b_enc, rows, W_enc, out=block[: len(rows)])


def entries_of_blocks(blocks: Iterable[Tensor], choose: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Return what `choose` picks from each block: flat indices into all rows, and values in float32.

    `choose` is given a block [rows of it, d_sae] and returns flat indices into it.
    """
    chosen, values = [], []
    start = 0
    for block in blocks:
        indices = choose(block)
        chosen.append(indices + start)
        values.append(at_least_float32(block.view(-1)[indices]))
        start += block.numel()
    return torch.cat(chosen), torch.cat(values)


def indices_above(block: Tensor, bound: Tensor | float) -> Tensor:
    """Return flat indices (ascending) of a block's entries above a bound, or above one a feature [d_sae]."""
    if block.device.type != "cpu":
        return (block > bound).view(-1).nonzero().squeeze(1)
    # numpy compares and searches four times as fast as torch does on a CPU.
    entries = at_least_float32(block)
    bounds = torch.as_tensor(bound, dtype=entries.dtype)
    return torch.from_numpy(np.flatnonzero(entries.numpy() > bounds.numpy()))


def at_least_float32(values: Tensor) -> Tensor:
    """Return the values, in float32 where they have fewer bits."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def _block_rows(centred: Tensor, d_sae: int) -> int:
    if centred.device.type != "cpu":
        return len(centred)
    return min(len(centred), max(_FEWEST_ROWS, _BLOCK_NUMBERS // d_sae))
